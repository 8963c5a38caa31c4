// Trains a byte-level BPE on the spot. Deterministic: the same documents in any order give the same
// vocabulary.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "common/result.h"
#include "data/bpe_tokenizer.h"

namespace tenax::data {

class BpeTrainer {
 public:
  /// Counts the pieces of a document.
  void add(std::string_view document);

  /// Merges the most frequent pair until there are `vocabulary_size` tokens (at least 257: the
  /// bytes and the end of a document), or until no pair occurs twice; then the vocabulary is
  /// smaller. Of equally frequent pairs the one with the smaller left, then the smaller right token
  /// is taken. A pair that would make a token that is already there is passed over.
  Result<BpeTokenizer> train(std::int64_t vocabulary_size) const;

 private:
  std::map<std::string, std::int64_t, std::less<>> piece_count_;
};

}  // namespace tenax::data
