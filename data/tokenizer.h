// Text to token ids and back. A tokenizer is immutable after construction and may be used from any
// thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/hash.h"

namespace tenax::data {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Ids are in [0, vocabulary_size()), the end-of-document token included.
  virtual std::int64_t vocabulary_size() const = 0;
  /// The id that stands between documents. encode() never produces it.
  virtual std::int32_t end_of_document() const = 0;
  /// Every byte string can be encoded, and decode(encode(text)) == text.
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;
  /// The end-of-document token gives nothing; an id outside the vocabulary gives U+FFFD. A sequence
  /// cut inside a character gives the bytes it has, which need not be UTF-8.
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;
  /// Equal for two tokenizers exactly when they encode every text alike. Recorded in token files
  /// and checkpoints.
  virtual Hash128 digest() const = 0;
};

/// Token id = byte value; 256 is the end of a document.
class ByteTokenizer final : public Tokenizer {
 public:
  static constexpr std::int32_t kEndOfDocument = 256;

  std::int64_t vocabulary_size() const override { return 257; }
  std::int32_t end_of_document() const override { return kEndOfDocument; }
  std::vector<std::int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  Hash128 digest() const override;
};

}  // namespace tenax::data
