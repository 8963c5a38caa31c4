#include "scheduler/layout_templates.h"

#include <fmt/format.h>

#include <algorithm>

namespace tenax::scheduler {

std::optional<Degrees> best_layout(const LayoutLimits& limits, const Degrees& target, int workers) {
  if (workers < std::max(1, limits.min_workers)) return std::nullopt;
  int dp = std::min(target.dp, workers / (target.tp * target.pp));
  if (limits.max_data_parallel > 0) dp = std::min(dp, limits.max_data_parallel);
  if (dp >= 1) return Degrees{dp, target.tp, target.pp};
  const int pp = workers / target.tp;
  if (pp < std::max(1, limits.min_stages)) return std::nullopt;
  return Degrees{1, target.tp, pp};
}

std::vector<LayoutTemplate> layout_templates(const LayoutLimits& limits, const Degrees& target) {
  std::vector<LayoutTemplate> templates;
  for (int workers = target.world_size(); workers > 0; --workers) {
    const std::optional<Degrees> degrees = best_layout(limits, target, workers);
    if (!degrees) break;
    if (!templates.empty() && templates.back().degrees == *degrees) {
      templates.back().workers = workers;  // the fewest that it needs
    } else {
      templates.push_back({workers, *degrees});
    }
  }
  return templates;
}

std::string layout_text(const Degrees& d) {
  return d.tp == 1 ? fmt::format("dp {} x pp {}", d.dp, d.pp)
                   : fmt::format("dp {} x tp {} x pp {}", d.dp, d.tp, d.pp);
}

std::string templates_text(const std::vector<LayoutTemplate>& templates) {
  constexpr std::size_t kShown = 8;
  std::string text;
  for (std::size_t i = 0; i < templates.size(); ++i) {
    if (templates.size() > kShown && i + 1 < templates.size() && i >= kShown - 2) {
      if (i == kShown - 2) text += ", ...";
      continue;
    }
    text += fmt::format("{}{}{} {}", i == 0 ? "" : ", ", templates[i].workers,
                        i == 0 ? " workers" : "", layout_text(templates[i].degrees));
  }
  return text;
}

}  // namespace tenax::scheduler
