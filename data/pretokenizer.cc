#include "data/pretokenizer.h"

#include "data/unicode_classes.h"

namespace tenax::data {

namespace {

/// One past the run of characters of `char_class` that begins at `at`.
std::size_t end_of_run(std::string_view text, std::size_t at, CharClass char_class) {
  while (at < text.size()) {
    const DecodedChar c = decode_char(text.substr(at));
    if (c.char_class != char_class) break;
    at += c.num_bytes;
  }
  return at;
}

}  // namespace

std::size_t first_piece(std::string_view text) {
  for (const std::string_view contraction : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (text.starts_with(contraction)) return contraction.size();
  }
  const std::size_t space = text[0] == ' ' && text.size() > 1 ? 1 : 0;
  const DecodedChar c = decode_char(text.substr(space));
  if (c.char_class != CharClass::kSpace) return end_of_run(text, space, c.char_class);

  // White space: all of it at the text's end. Before a word its last character is left: a blank
  // begins the word's piece, and anything else is a piece of its own.
  std::size_t end = 0;
  std::size_t last = 0;
  while (end < text.size()) {
    const DecodedChar w = decode_char(text.substr(end));
    if (w.char_class != CharClass::kSpace) break;
    last = end;
    end += w.num_bytes;
  }
  return end == text.size() || last == 0 ? end : last;
}

}  // namespace tenax::data
