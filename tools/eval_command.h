// `tenax eval`: the held-out loss of a checkpoint, computed in one process. On the run's own
// held-out text it is bit for bit the loss that the run reported at that step, whatever its layout
// was: the same microbatches, the same kernels, the same order of sums.
#pragma once

#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <string>
#include <vector>

#include "common/result.h"

namespace tenax::tools {

struct EvalArguments {
  std::filesystem::path run_dir;
  std::int64_t step = -1;         ///< of the checkpoint; -1: the newest
  std::vector<std::string> text;  ///< patterns of documents; empty: the run's held-out text
  bool json = false;
};

struct EvalResult {
  std::int64_t step = 0;
  std::int64_t targets = 0;  ///< tokens that were predicted
  double loss = 0;           ///< nats a token
};

/// Own documents are cut into windows of the run's sequence length, one behind the other; every
/// token but the first is predicted once. Blocks; one forward pass over the text.
Result<EvalResult> evaluate_checkpoint(const EvalArguments& arguments);

/// Returns an ExitCode (scheduler/exit_code.h).
int run_eval(const EvalArguments& arguments, std::ostream& out, std::ostream& errors);

}  // namespace tenax::tools
