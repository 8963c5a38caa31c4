#include "scheduler/pipeline_schedule.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "common/check.h"
#include "scheduler/layout.h"

namespace tenax::scheduler {

namespace {

/// The pass of one microbatch through one chunk, forward or backward.
struct Pass {
  int chunk = 0;
  int microbatch = 0;
};

class Builder {
 public:
  Builder(const Pipeline& pipeline, int stage)
      : stage_(stage),
        num_stages_(pipeline.num_stages),
        last_(pipeline.num_stages * pipeline.num_chunks - 1),
        live_(static_cast<std::size_t>(pipeline.num_chunks)) {}

  void forward(const Pass& pass) {
    std::vector<int>& live = live_[static_cast<std::size_t>(pass.chunk)];
    auto slot = std::ranges::find(live, kFree);
    if (slot == live.end()) slot = live.insert(live.end(), kFree);
    *slot = pass.microbatch;
    const int index = static_cast<int>(slot - live.begin());
    if (virtual_stage(pass) > 0) add(ActionKind::kRecvForward, pass, index);
    add(ActionKind::kForward, pass, index);
    if (virtual_stage(pass) < last_) add(ActionKind::kSendForward, pass, index);
  }
  void backward(const Pass& pass) {
    std::vector<int>& live = live_[static_cast<std::size_t>(pass.chunk)];
    const auto slot = std::ranges::find(live, pass.microbatch);
    TENAX_CHECK(slot != live.end());
    *slot = kFree;
    const int index = static_cast<int>(slot - live.begin());
    if (virtual_stage(pass) < last_) add(ActionKind::kRecvBackward, pass, index);
    add(ActionKind::kBackward, pass, index);
    if (virtual_stage(pass) > 0) add(ActionKind::kSendBackward, pass, index);
  }
  PipelineSchedule take() { return std::move(actions_); }

 private:
  static constexpr int kFree = -1;

  int virtual_stage(const Pass& pass) const { return pass.chunk * num_stages_ + stage_; }
  void add(ActionKind kind, const Pass& pass, int slot) {
    actions_.push_back({kind, pass.microbatch, slot, pass.chunk});
  }

  int stage_;
  int num_stages_;
  int last_;
  std::vector<std::vector<int>> live_;  ///< microbatch of each slot, by chunk
  PipelineSchedule actions_;
};

/// Microbatches go in groups of at least one a rank, as even as they divide; a group passes all
/// chunks before the next one begins.
int num_groups(const Pipeline& p, int num_microbatches) {
  return std::max(num_microbatches / p.num_stages, 1);
}

/// Microbatches of the largest group.
int group_size(const Pipeline& p, int num_microbatches) {
  const int groups = num_groups(p, num_microbatches);
  return (num_microbatches + groups - 1) / groups;
}

std::vector<Pass> forward_order(const Pipeline& p, int num_microbatches) {
  const int groups = num_groups(p, num_microbatches);
  std::vector<Pass> order;
  for (int group = 0; group < groups; ++group) {
    const IndexRange range = even_share(num_microbatches, groups, group);
    for (int chunk = 0; chunk < p.num_chunks; ++chunk)
      for (std::int64_t mb = range.begin; mb < range.end; ++mb)
        order.push_back({chunk, static_cast<int>(mb)});
  }
  return order;
}

std::vector<Pass> backward_order(const Pipeline& p, int num_microbatches) {
  std::vector<Pass> order = forward_order(p, num_microbatches);
  for (Pass& pass : order) pass.chunk = p.num_chunks - 1 - pass.chunk;
  return order;
}

/// Passes that go forward before the first goes backward.
int warmup_passes(ScheduleKind kind, const Pipeline& p, int stage, int num_microbatches) {
  const int all = p.num_chunks * num_microbatches;
  const int behind = p.num_stages - 1 - stage;
  if (kind == ScheduleKind::kGpipe) return all;
  if (p.num_chunks == 1) return std::min(behind, all);
  return std::min(2 * behind + (p.num_chunks - 1) * group_size(p, num_microbatches), all);
}

}  // namespace

int num_outboxes(const Pipeline& pipeline, int num_microbatches) {
  if (pipeline.num_chunks == 1) return 2;
  // Of a group larger than the pipeline the first rank sends the rest before anyone can take it.
  return 2 + std::max(group_size(pipeline, num_microbatches) - pipeline.num_stages, 0);
}

int num_slots(const PipelineSchedule& schedule, int chunk) {
  int slots = 1;
  for (const Action& a : schedule) {
    if (a.chunk == chunk) slots = std::max(slots, a.slot + 1);
  }
  return slots;
}

PipelineSchedule make_schedule(ScheduleKind kind, const Pipeline& pipeline, int stage,
                               int num_microbatches) {
  TENAX_CHECK(pipeline.num_chunks == 1 || pipeline.num_stages > 1);
  const std::vector<Pass> forward = forward_order(pipeline, num_microbatches);
  const std::vector<Pass> backward = backward_order(pipeline, num_microbatches);
  const auto warmup =
      static_cast<std::size_t>(warmup_passes(kind, pipeline, stage, num_microbatches));
  Builder b(pipeline, stage);
  for (std::size_t i = 0; i < warmup; ++i) b.forward(forward[i]);
  for (std::size_t i = warmup; i < forward.size(); ++i) {  // steady
    b.forward(forward[i]);
    b.backward(backward[i - warmup]);
  }
  for (std::size_t i = forward.size() - warmup; i < forward.size(); ++i)  // cooldown
    b.backward(backward[i]);
  return b.take();
}

PipelineSchedule make_forward_schedule(const Pipeline& pipeline, int stage, int num_microbatches) {
  Builder b(pipeline, stage);
  // Groups of one a rank, the last one smaller: two outboxes are enough for any number.
  for (int first = 0; first < num_microbatches; first += pipeline.num_stages)
    for (int chunk = 0; chunk < pipeline.num_chunks; ++chunk)
      for (int mb = first; mb < std::min(first + pipeline.num_stages, num_microbatches); ++mb)
        b.forward({chunk, mb});
  PipelineSchedule schedule = b.take();
  for (Action& a : schedule) a.slot = 0;
  return schedule;
}

}  // namespace tenax::scheduler
