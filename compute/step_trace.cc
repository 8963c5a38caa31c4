#include "compute/step_trace.h"

namespace tenax::compute {

std::string_view to_string(TraceKind kind) {
  switch (kind) {
    case TraceKind::kRecvForward:
      return "recv forward";
    case TraceKind::kForward:
      return "forward";
    case TraceKind::kSendForward:
      return "send forward";
    case TraceKind::kRecvBackward:
      return "recv backward";
    case TraceKind::kBackward:
      return "backward";
    case TraceKind::kSendBackward:
      return "send backward";
    case TraceKind::kData:
      return "data";
    case TraceKind::kReduce:
      return "reduce";
    case TraceKind::kVerdict:
      return "verdict";
    case TraceKind::kUpdate:
      return "update";
    case TraceKind::kEvaluate:
      return "evaluate";
    case TraceKind::kSnapshot:
      return "snapshot";
  }
  return "unknown";
}

std::string_view category_of(TraceKind kind) {
  switch (kind) {
    case TraceKind::kForward:
    case TraceKind::kBackward:
    case TraceKind::kUpdate:
    case TraceKind::kEvaluate:
      return "compute";
    case TraceKind::kRecvForward:
    case TraceKind::kSendForward:
    case TraceKind::kRecvBackward:
    case TraceKind::kSendBackward:
      return "pipeline";
    case TraceKind::kReduce:
    case TraceKind::kVerdict:
      return "collective";
    case TraceKind::kData:
    case TraceKind::kSnapshot:
      return "other";
  }
  return "other";
}

StepTrace::StepTrace(const Clock& clock, std::size_t capacity) : clock_(clock) {
  events_.reserve(capacity);
}

void StepTrace::begin_step(std::int64_t step) {
  step_ = step;
  events_.clear();
}

void StepTrace::add(TraceKind kind, std::int32_t microbatch, Time begin) {
  if (events_.size() == events_.capacity()) return;
  events_.push_back({step_, microbatch, kind, begin, clock_.now()});
}

}  // namespace tenax::compute
