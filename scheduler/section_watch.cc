#include "scheduler/section_watch.h"

#include <fmt/format.h>

#include <algorithm>

namespace tenax::scheduler {

namespace {

constexpr std::size_t kKept = 16;
constexpr std::size_t kWarmupSteps = 8;

}  // namespace

std::string_view to_string(Section section) {
  switch (section) {
    case Section::kSetup:
      return "setup";
    case Section::kFirstStep:
      return "first step of a generation";
    case Section::kStep:
      return "step";
    case Section::kEvalStep:
      return "step with evaluation";
    case Section::kAfterSave:
      return "step after a snapshot";
  }
  return "section";
}

Section section_of_next_step(const SectionWatchOptions& o, std::int64_t counted_step,
                             std::int64_t total_steps, bool first_of_generation) {
  const std::int64_t next = counted_step + 1;
  if (first_of_generation) return Section::kFirstStep;
  if (o.eval_interval > 0 && (next % o.eval_interval == 0 || next == total_steps))
    return Section::kEvalStep;
  if (o.checkpoint_interval > 0 && counted_step % o.checkpoint_interval == 0)
    return Section::kAfterSave;
  return Section::kStep;
}

void observe(SectionWatchState& state, Section section, double seconds) {
  std::vector<double>& seen = state.seconds[static_cast<std::size_t>(section)];
  seen.push_back(seconds);
  if (seen.size() > kKept) seen.erase(seen.begin());
}

SectionLimit section_limit(const SectionWatchState& state, const SectionWatchOptions& o,
                           Section section, Duration fallback) {
  const std::vector<double>& seen = state.seconds[static_cast<std::size_t>(section)];
  const std::size_t enough = section == Section::kStep ? kWarmupSteps : 1;
  if (o.factor <= 0 || seen.size() < enough)
    return {fallback, "its limit before its times are known"};
  const double longest = *std::max_element(seen.begin(), seen.end());
  return {from_seconds(o.factor * longest) + o.slack,
          fmt::format("{:g} times its longest time of late, {:.3f} s, and {:.1f} s", o.factor,
                      longest, to_seconds(o.slack))};
}

}  // namespace tenax::scheduler
