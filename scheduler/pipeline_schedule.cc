#include "scheduler/pipeline_schedule.h"

#include <algorithm>

namespace tenax::scheduler {

namespace {

class Builder {
 public:
  Builder(int stage, int num_stages, int slots)
      : first_(stage == 0), last_(stage == num_stages - 1), slots_(slots) {}

  void forward(int mb) {
    if (!first_) add(ActionKind::kRecvForward, mb);
    add(ActionKind::kForward, mb);
    if (!last_) add(ActionKind::kSendForward, mb);
  }
  void backward(int mb) {
    if (!last_) add(ActionKind::kRecvBackward, mb);
    add(ActionKind::kBackward, mb);
    if (!first_) add(ActionKind::kSendBackward, mb);
  }
  PipelineSchedule take() { return std::move(actions_); }

 private:
  void add(ActionKind kind, int mb) { actions_.push_back({kind, mb, mb % slots_}); }

  bool first_;
  bool last_;
  int slots_;
  PipelineSchedule actions_;
};

}  // namespace

int max_slots(ScheduleKind kind, int stage, int num_stages, int num_microbatches) {
  if (kind == ScheduleKind::kGpipe) return std::max(1, num_microbatches);
  return std::max(1, std::min(num_stages - stage, num_microbatches));
}

PipelineSchedule make_schedule(ScheduleKind kind, int stage, int num_stages, int num_microbatches) {
  const int m = num_microbatches;
  Builder b(stage, num_stages, max_slots(kind, stage, num_stages, m));
  const int warmup = kind == ScheduleKind::kGpipe ? m : std::min(num_stages - 1 - stage, m);
  for (int i = 0; i < warmup; ++i) b.forward(i);
  for (int i = warmup; i < m; ++i) {  // steady
    b.forward(i);
    b.backward(i - warmup);
  }
  for (int i = m - warmup; i < m; ++i) b.backward(i);  // cooldown
  return b.take();
}

PipelineSchedule make_forward_schedule(int stage, int num_stages, int num_microbatches) {
  Builder b(stage, num_stages, 1);
  for (int i = 0; i < num_microbatches; ++i) b.forward(i);
  return b.take();
}

}  // namespace tenax::scheduler
