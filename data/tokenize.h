// From documents to the two token files of a run: train and held out. Streams; memory is one
// document's.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "common/result.h"
#include "data/split.h"
#include "data/token_file.h"
#include "data/tokenizer.h"

namespace tenax::data {

struct TokenizePaths {
  std::filesystem::path train;
  std::filesystem::path heldout;
};

struct TokenizedCorpus {
  TokenFileInfo train;
  TokenFileInfo heldout;
  std::int64_t num_documents = 0;
  std::int64_t num_bytes = 0;
};

/// Writes both files; each document, and each part of one that is split, ends with the
/// end-of-document token. The same documents, tokenizer and split give the same bytes. Errors are
/// those of reading the documents and writing the files.
Result<TokenizedCorpus> tokenize_corpus(const std::vector<std::filesystem::path>& documents,
                                        const Tokenizer& tokenizer, const SplitOptions& split,
                                        const TokenizePaths& paths);

}  // namespace tenax::data
