# cmake -DOUTPUT=file.cc -DCARDS=a.toml;b.toml -P embed_cards.cmake: the model cards as C++.
set(rows "")
list(SORT CARDS)
foreach(card ${CARDS})
  get_filename_component(name ${card} NAME)
  string(REGEX REPLACE "\\.toml$" "" name ${name})
  file(READ ${card} text)
  string(APPEND rows "    {\"${name}\", R\"CARD(${text})CARD\"},\n")
endforeach()
file(WRITE ${OUTPUT} "#include \"configs/embedded_cards.h\"

namespace tenax::configs {

std::span<const EmbeddedCard> embedded_cards() {
  static constexpr EmbeddedCard kCards[] = {
${rows}  };
  return kCards;
}

}  // namespace tenax::configs
")
