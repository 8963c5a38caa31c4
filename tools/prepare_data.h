// Turns a run's documents into token files in its run directory, once, and checks on every later
// start that they are still what the run was trained on.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "actors/run_directory.h"
#include "common/hash.h"
#include "common/result.h"
#include "configs/run_config.h"
#include "data/tokenizer.h"

namespace tenax::tools {

struct PreparedData {
  std::int64_t num_documents = 0;
  std::int64_t num_bytes = 0;
  std::int64_t train_tokens = 0;
  std::int64_t heldout_tokens = 0;
  std::int64_t vocabulary_size = 0;
  double unigram_loss =
      0;  ///< nats a token of the held-out text under the training text's frequencies
  double uniform_loss = 0;  ///< ln(vocabulary size)
  Hash128 digest;           ///< of both token files and the tokenizer
  std::vector<std::string> notices;
};

/// Reads the documents and writes the token files. Errors name the pattern or the file.
Result<PreparedData> prepare_data(const configs::RunConfig& config,
                                  const actors::RunDirectory& directory);

/// What prepare_data() once wrote; kDataLoss if a token file is not the one that was written.
Result<PreparedData> reopen_data(const actors::RunDirectory& directory);

/// The tokenizer of a prepared run; kInvalidArgument if its token files were made with another.
Result<std::unique_ptr<data::Tokenizer>> open_tokenizer(const configs::RunConfig& config,
                                                        const actors::RunDirectory& directory);

}  // namespace tenax::tools
