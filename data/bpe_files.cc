// Reading and writing of BPE vocabularies: GPT-2's two files and our own one.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "common/check.h"
#include "data/bpe_tokenizer.h"
#include "data/durable_file.h"

namespace tenax::data {

namespace {

constexpr std::string_view kFormat = "tenax-bpe-1";
constexpr std::string_view kEndOfText = "<|endoftext|>";

/// GPT-2 writes each byte as a visible character: printable Latin-1 as itself, the others as U+0100
/// onwards, in order.
std::unordered_map<std::string, char> bytes_of_visible_characters() {
  std::unordered_map<std::string, char> bytes;
  unsigned next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool is_visible = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) ||
                            (byte >= 0xae && byte <= 0xff);
    const unsigned c = is_visible ? byte : next++;
    std::string utf8;
    if (c < 0x80) {
      utf8 = static_cast<char>(c);
    } else {
      utf8 = {static_cast<char>(0xc0 | (c >> 6)), static_cast<char>(0x80 | (c & 0x3f))};
    }
    bytes.emplace(std::move(utf8), static_cast<char>(byte));
  }
  return bytes;
}

class VisibleText {
 public:
  /// Nothing if `text` has a character that stands for no byte.
  std::optional<std::string> bytes_of(std::string_view text) const {
    std::string bytes;
    while (!text.empty()) {
      const std::size_t n = static_cast<unsigned char>(text[0]) < 0x80 ? 1 : 2;
      const auto at = bytes_.find(std::string(text.substr(0, n)));
      if (at == bytes_.end()) return std::nullopt;
      bytes += at->second;
      text.remove_prefix(std::min(n, text.size()));
    }
    return bytes;
  }

 private:
  std::unordered_map<std::string, char> bytes_ = bytes_of_visible_characters();
};

Error damaged(const std::filesystem::path& path, std::string_view what) {
  return make_error(ErrorCode::kDataLoss,
                    fmt::format("tokenizer file {}: {}", path.string(), what));
}

Result<nlohmann::json> read_json(const std::filesystem::path& path) {
  TENAX_TRY(const std::string text, read_file(path));
  auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return damaged(path, "not JSON");
  return json;
}

/// Token strings as the files write them -> id.
using Encoder = std::unordered_map<std::string, std::int32_t>;

Result<Encoder> read_encoder(const std::filesystem::path& path) {
  TENAX_TRY(const nlohmann::json json, read_json(path));
  if (!json.is_object() || json.empty()) return damaged(path, "expected an object of tokens");
  Encoder encoder;
  std::vector<bool> is_used(json.size(), false);
  for (const auto& [token, id] : json.items()) {
    const auto number = id.is_number_unsigned() ? id.get<std::uint64_t>() : json.size();
    if (number >= json.size() || is_used[number]) {
      return damaged(path, fmt::format("token '{}': expected an id of its own below {}, got {}",
                                       token, json.size(), id.dump()));
    }
    is_used[number] = true;
    encoder.emplace(token, static_cast<std::int32_t>(number));
  }
  return encoder;
}

}  // namespace

Result<BpeTokenizer> BpeTokenizer::open_gpt2(const std::filesystem::path& folder) {
  const std::filesystem::path encoder_path = folder / "encoder.json";
  const std::filesystem::path merges_path = folder / "vocab.bpe";
  TENAX_TRY(const Encoder encoder, read_encoder(encoder_path));
  const VisibleText visible;
  BpeVocabulary vocabulary;
  vocabulary.tokens.resize(encoder.size());
  for (const auto& [token, id] : encoder) {
    if (token == kEndOfText) {
      vocabulary.end_of_document = id;
      continue;
    }
    const auto bytes = visible.bytes_of(token);
    if (!bytes) return damaged(encoder_path, fmt::format("token '{}' stands for no bytes", token));
    vocabulary.tokens[static_cast<std::size_t>(id)] = *bytes;
  }

  TENAX_TRY(const std::string merges, read_file(merges_path));
  std::istringstream lines(merges);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.starts_with("#version") || line.empty()) continue;
    const std::size_t blank = line.find(' ');
    const auto left = encoder.find(line.substr(0, blank));
    const auto right =
        blank == std::string::npos ? encoder.end() : encoder.find(line.substr(blank + 1));
    if (left == encoder.end() || right == encoder.end()) {
      return damaged(merges_path, fmt::format("line {}: expected two tokens of {}, got '{}'",
                                              number, encoder_path.filename().string(), line));
    }
    vocabulary.merges.emplace_back(left->second, right->second);
  }
  auto tokenizer = create(std::move(vocabulary));
  if (!tokenizer) return damaged(merges_path, tokenizer.error().message);
  return tokenizer;
}

Result<BpeTokenizer> BpeTokenizer::open(const std::filesystem::path& path) {
  TENAX_TRY(const nlohmann::json json, read_json(path));
  if (!json.is_object() || json.value("format", nlohmann::json()) != kFormat ||
      !json.value("merges", nlohmann::json()).is_array()) {
    return damaged(path, fmt::format("expected the format {}", kFormat));
  }
  BpeVocabulary vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.tokens.emplace_back(1, static_cast<char>(byte));
  }
  for (const nlohmann::json& merge : json["merges"]) {
    const auto id = [&](std::size_t i) {
      const std::uint64_t none = vocabulary.tokens.size();
      if (!merge.is_array() || merge.size() != 2 || !merge[i].is_number_unsigned()) return none;
      return std::min(merge[i].get<std::uint64_t>(), none);
    };
    const std::uint64_t left = id(0);
    const std::uint64_t right = id(1);
    if (std::max(left, right) == vocabulary.tokens.size()) {
      return damaged(path, fmt::format("merge {}: expected two earlier tokens, got {}",
                                       vocabulary.merges.size(), merge.dump()));
    }
    vocabulary.tokens.push_back(vocabulary.tokens[left] + vocabulary.tokens[right]);
    vocabulary.merges.emplace_back(static_cast<std::int32_t>(left),
                                   static_cast<std::int32_t>(right));
  }
  vocabulary.end_of_document = static_cast<std::int32_t>(vocabulary.tokens.size());
  vocabulary.tokens.emplace_back();
  auto tokenizer = create(std::move(vocabulary));
  if (!tokenizer) return damaged(path, tokenizer.error().message);
  return tokenizer;
}

Status BpeTokenizer::save(const std::filesystem::path& path) const {
  TENAX_CHECK(vocabulary_.tokens.size() == 257 + vocabulary_.merges.size() &&
              vocabulary_.end_of_document + 1 == vocabulary_size());
  return write_file(
      path, nlohmann::json{{"format", kFormat}, {"merges", vocabulary_.merges}}.dump() + "\n");
}

}  // namespace tenax::data
