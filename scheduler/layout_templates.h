// Which layout a run has with so many workers: a function of their number alone, listed when the
// run starts, so that nothing has to be thought out after a failure. The idea of templates made
// beforehand is Oobleck's (Jang et al. 2023, doi:10.1145/3600006.3613152); here the global batch is
// the same in every one of them, and so are the bits (docs/numerics.md). Pure functions.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/run_types.h"

namespace tenax::scheduler {

struct LayoutLimits {
  int max_data_parallel = 0;  ///< microbatches of a step: each replica needs one; 0: no limit
  int max_stages = 0;         ///< layers of the model: each stage needs one; 0: no limit
  int min_stages = 1;         ///< fewer do not fit a worker's memory
  int min_workers = 1;        ///< the run does not go on with fewer
};

/// The layout for `workers` workers of a run that is meant to have `target`: as many whole replicas
/// as there are workers for, at most target.dp; if there are too few for one, one replica of fewer
/// stages. The tensor-parallel degree stays. Nothing if even that is impossible. Workers beyond its
/// world size are spares.
std::optional<Degrees> best_layout(const LayoutLimits& limits, const Degrees& target, int workers);

struct LayoutTemplate {
  int workers = 0;
  Degrees degrees;
  bool operator==(const LayoutTemplate&) const = default;
};

/// best_layout() for every number of workers from target.world_size() down to the fewest that will
/// do; numbers that give the same layout as the one below are left out.
std::vector<LayoutTemplate> layout_templates(const LayoutLimits& limits, const Degrees& target);

/// "dp 2 x pp 2", with tp if it is not 1.
std::string layout_text(const Degrees& degrees);
/// "4 workers dp 2 x pp 2, 2 dp 1 x pp 2, 1 dp 1 x pp 1"; of more than eight the first and the
/// last.
std::string templates_text(const std::vector<LayoutTemplate>& templates);

}  // namespace tenax::scheduler
