// `tenax tokenize`: documents to token files, without a run.
#pragma once

#include <filesystem>
#include <iosfwd>
#include <string>
#include <vector>

#include "tools/text_tokenizer.h"

namespace tenax::tools {

struct TokenizeArguments {
  std::vector<std::string> text;  ///< patterns, relative to the working directory
  std::filesystem::path out;      ///< folder for train.tok, heldout.tok and the tokenizer
  TokenizerChoice tokenizer;
  double heldout_fraction = 0.05;
  std::uint64_t seed = 1;  ///< of the choice of held-out text
  bool json = false;
};

/// Returns an ExitCode (scheduler/exit_code.h). Prints counts and digests.
int run_tokenize(const TokenizeArguments& arguments, std::ostream& out, std::ostream& errors);

}  // namespace tenax::tools
