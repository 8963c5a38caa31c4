// Reads the loss curve of any run, so that the spike detector can be tried on it: CSV (step, loss[,
// grad_norm]), CSV as exported by TensorBoard (Wall time,Step,Value) or Weights & Biases
// ("Step","run - train/loss"), and JSON lines with one object a step. Values; no thread rule.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "scheduler/spike_event.h"

namespace tenax::tools {

/// Names of the columns or JSON keys to use; empty: the first known name that occurs, such as
/// "step", "_step", "iteration"; "loss", "train/loss", "lm loss", "value"; "grad_norm",
/// "train/grad_norm".
struct CurveColumns {
  std::string step;
  std::string loss;
  std::string grad_norm;
};

/// The points of `text` in the order of its lines. NaN and infinities in any usual spelling are
/// kept; an empty loss, or a JSON null, gives a point that is `missing`; a JSON line without the
/// step or the loss key is some other record and is left out. Errors (kInvalidArgument) name the
/// line.
Result<std::vector<scheduler::MetricPoint>> parse_curve(std::string_view text,
                                                        const CurveColumns& columns);

/// The same from a file, or an I/O error that names it.
Result<std::vector<scheduler::MetricPoint>> read_curve(const std::filesystem::path& path,
                                                       const CurveColumns& columns);

}  // namespace tenax::tools
