// Byte-level byte-pair encoding as in GPT-2 (Sennrich, Haddow, Birch, doi:10.18653/v1/P16-1162;
// Radford et al. 2019): text is cut into pieces (data/pretokenizer.h), each piece starts as single
// bytes, and the pair of neighbours that was merged earliest in training is merged until no pair is
// left that was. Immutable, any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/result.h"
#include "data/tokenizer.h"

namespace tenax::data {

/// What a BPE tokenizer is made of.
struct BpeVocabulary {
  /// The bytes of each token. All 256 single bytes occur, no token twice; the end of a document is
  /// the empty string.
  std::vector<std::string> tokens;
  /// In the order of training; each makes a token that no earlier one made, from tokens that are
  /// bytes or made earlier.
  std::vector<std::pair<std::int32_t, std::int32_t>> merges;
  std::int32_t end_of_document = 0;
};

class BpeTokenizer final : public Tokenizer {
 public:
  /// kInvalidArgument, naming the token or merge, if the vocabulary does not hold what
  /// BpeVocabulary promises.
  static Result<BpeTokenizer> create(BpeVocabulary vocabulary);
  /// The vocabulary of GPT-2 and GPT-3: encoder.json and vocab.bpe in `folder`. kDataLoss if they
  /// do not fit together.
  static Result<BpeTokenizer> open_gpt2(const std::filesystem::path& folder);
  /// A file that save() wrote.
  static Result<BpeTokenizer> open(const std::filesystem::path& path);

  /// JSON: {"format": "tenax-bpe-1", "merges": [[left, right], ...]}. Only for tokenizers of
  /// train_bpe(), whose other tokens follow from the merges: byte b is token b, merge i makes token
  /// 256 + i, the end of a document comes last.
  Status save(const std::filesystem::path& path) const;

  std::int64_t vocabulary_size() const override {
    return static_cast<std::int64_t>(vocabulary_.tokens.size());
  }
  std::int32_t end_of_document() const override { return vocabulary_.end_of_document; }
  /// Time is proportional to n log n in the length of the longest piece.
  std::vector<std::int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  Hash128 digest() const override { return digest_; }

  const BpeVocabulary& vocabulary() const { return vocabulary_; }

 private:
  struct Merge {
    std::int32_t rank = 0;
    std::int32_t token = 0;
  };

  BpeTokenizer() = default;
  const Merge* find_merge(std::int32_t left, std::int32_t right) const;
  void encode_piece(std::string_view piece, std::vector<std::int32_t>& ids) const;

  BpeVocabulary vocabulary_;
  std::int32_t byte_token_[256] = {};
  std::unordered_map<std::uint64_t, Merge> merge_of_pair_;
  Hash128 digest_;
};

}  // namespace tenax::data
