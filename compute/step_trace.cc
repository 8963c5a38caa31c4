#include "compute/step_trace.h"

#include <iterator>

namespace tenax::compute {
namespace {

struct KindText {
  std::string_view name;
  std::string_view category;
  std::string_view index;
};

/// By TraceKind.
constexpr KindText kTexts[] = {
    {"recv forward", "pipeline", ""},
    {"forward", "compute", ""},
    {"send forward", "pipeline", ""},
    {"recv backward", "pipeline", ""},
    {"backward", "compute", ""},
    {"send backward", "pipeline", ""},
    {"data", "other", ""},
    {"reduce", "collective", "bucket"},
    {"combine gradients", "collective", ""},
    {"gradient norm", "collective", ""},
    {"verdict", "collective", ""},
    {"update", "compute", ""},
    {"share weights", "collective", ""},
    {"evaluate", "compute", ""},
    {"snapshot", "other", ""},
    {"embedding", "kernel", ""},
    {"norm", "kernel", "layer"},
    {"qkv products", "kernel", "layer"},
    {"attention", "kernel", "layer"},
    {"attention output product", "kernel", "layer"},
    {"feed-forward products", "kernel", "layer"},
    {"activation", "kernel", "layer"},
    {"cross-entropy", "kernel", ""},
    {"adamw", "kernel", "layer"},
    {"tensor-parallel reduce", "collective", ""},
    {"tensor-parallel gather", "collective", ""},
    {"send", "transfer", "peer"},
    {"recv", "transfer", "peer"},
};
static_assert(std::size(kTexts) == static_cast<std::size_t>(kLastTraceKind) + 1);

const KindText& text_of(TraceKind kind) {
  static constexpr KindText kUnknown{"unknown", "other", ""};
  const auto at = static_cast<std::size_t>(kind);
  return at < std::size(kTexts) ? kTexts[at] : kUnknown;
}

}  // namespace

std::string_view to_string(TraceKind kind) { return text_of(kind).name; }
std::string_view category_of(TraceKind kind) { return text_of(kind).category; }
std::string_view index_name(TraceKind kind) { return text_of(kind).index; }

bool is_in_background(TraceKind kind) {
  return kind == TraceKind::kReduce || kind == TraceKind::kSend || kind == TraceKind::kRecv;
}

StepTrace::StepTrace(const Clock& clock, std::size_t capacity)
    : clock_(clock), detail_capacity_(capacity - capacity / 4) {
  events_.reserve(capacity);
}

void StepTrace::begin_step(std::int64_t step) {
  step_ = step;
  events_.clear();
}

void StepTrace::add(TraceEvent event) {
  if (events_.size() == events_.capacity()) return;
  event.step = step_;
  if (event.end == Time{}) event.end = clock_.now();
  events_.push_back(event);
}

}  // namespace tenax::compute
