// `tenax trace`: what every rank did in a step, as JSON for chrome://tracing and Perfetto.
#pragma once

#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <map>
#include <string>
#include <vector>

#include "actors/trace_file.h"
#include "common/result.h"

namespace tenax::tools {

struct TraceArguments {
  std::filesystem::path run_dir;
  std::int64_t step = 0;         ///< 0: the newest that every rank has
  std::filesystem::path output;  ///< empty: standard output
};

/// The Trace Event Format's JSON: one track a rank, with kernels inside the actions, and below it
/// reductions of gradients and transfers; times in microseconds from the step's beginning. Of a
/// step that was made more than once, its last generation. `ranks`: records of each rank.
std::string trace_json(const std::map<int, std::vector<actors::TraceRecord>>& ranks,
                       std::int64_t step);

/// Returns an ExitCode.
int run_trace(const TraceArguments& arguments, std::ostream& out, std::ostream& errors);

}  // namespace tenax::tools
