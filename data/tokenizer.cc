#include "data/tokenizer.h"

namespace tenax::data {

std::vector<std::int32_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  ids.reserve(text.size());
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

std::string ByteTokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  text.reserve(ids.size());
  for (const std::int32_t id : ids) {
    if (id >= 0 && id < 256) {
      text.push_back(static_cast<char>(id));
    } else if (id != kEndOfDocument) {
      text += "\xEF\xBF\xBD";
    }
  }
  return text;
}

Hash128 ByteTokenizer::digest() const { return hash128("tenax tokenizer: bytes, version 1"); }

}  // namespace tenax::data
