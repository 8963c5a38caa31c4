// `tenax detect CURVE`: the run controller's spike detector over the logged curve of any run, so
// that people can see its verdicts on runs they know before they trust it with a live one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <string>
#include <vector>

#include "common/result.h"
#include "scheduler/spike_options.h"
#include "tools/curve_reader.h"

namespace tenax::tools {

enum class DetectOutput : std::uint8_t { kText, kJsonLines };

struct DetectArguments {
  std::filesystem::path curve;
  CurveColumns columns;
  std::filesystem::path
      config;  ///< a run recipe whose [spikes] section to start from; empty: the defaults
  std::vector<std::string> settings;  ///< "key=value", keys of SpikeOptions
  std::vector<std::string>
      ramps;  ///< "first:last", steps of announced learning-rate or batch ramps
  std::vector<std::int64_t>
      changes;  ///< steps after which the data or the weights were changed on purpose
  DetectOutput output = DetectOutput::kText;
  std::filesystem::path plot;  ///< an SVG file to write; empty: none
};

/// `options` changed by "key=value" settings, or an error that names the known keys.
Result<scheduler::SpikeOptions> apply_settings(scheduler::SpikeOptions options,
                                               const std::vector<std::string>& settings);

/// Verdicts to `out` (one line each), messages to `err`. Returns an exit code: 0, kExitUsage for
/// wrong arguments, kExitConfig for a curve that cannot be read, kExitStore for a plot that cannot
/// be written. Blocks on file I/O.
int run_detect(const DetectArguments& arguments, std::ostream& out, std::ostream& err);

}  // namespace tenax::tools
