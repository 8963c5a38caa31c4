// The tokenizer that a run's documents are encoded with: made once, kept beside the token files,
// opened again by everything that reads or writes text of the run.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "common/result.h"
#include "configs/run_config.h"
#include "data/tokenizer.h"

namespace tenax::tools {

struct TokenizerChoice {
  configs::TokenizerKind kind = configs::TokenizerKind::kBytes;
  std::int64_t vocabulary_size = 4096;  ///< most tokens of a BPE trained on the documents
  std::filesystem::path gpt2_dir;       ///< where encoder.json and vocab.bpe lie
};

/// Bytes need nothing; a BPE is trained on `documents` and saved as tokenizer.json in `folder`;
/// GPT-2's two files are copied to gpt2/ there. `folder` must exist.
Result<std::unique_ptr<data::Tokenizer>> make_tokenizer(
    const TokenizerChoice& choice, const std::vector<std::filesystem::path>& documents,
    const std::filesystem::path& folder);

/// What make_tokenizer() left in `folder`.
Result<std::unique_ptr<data::Tokenizer>> open_tokenizer(configs::TokenizerKind kind,
                                                        const std::filesystem::path& folder);

}  // namespace tenax::tools
