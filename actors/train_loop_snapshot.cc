// What leaves a rank's memory beside its steps: snapshots into the slots, and the hashes that
// replicas compare. A part of TrainLoop.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <utility>

#include "actors/train_loop.h"

namespace tenax::actors {

namespace {

/// Training waits from construction to destruction: recorded, and added to `wait`.
class SnapshotSpan {
 public:
  SnapshotSpan(compute::StepTrace& trace, Duration& wait)
      : span_(&trace, compute::TraceKind::kSnapshot),
        clock_(trace.clock()),
        wait_(wait),
        begin_(clock_.now()) {}
  ~SnapshotSpan() { wait_ += clock_.now() - begin_; }
  SnapshotSpan(const SnapshotSpan&) = delete;
  SnapshotSpan& operator=(const SnapshotSpan&) = delete;

 private:
  const compute::TraceSpan span_;
  const Clock& clock_;
  Duration& wait_;
  const Time begin_;
};

}  // namespace

Status TrainLoop::open_slots() {
  for (std::shared_ptr<void>& pinned : pinned_) pinned.reset();
  slots_.reset();
  const std::string prefix = checkpoint::slot_prefix(
      options_.run_id, fmt::format("a{}", options_.agent), static_cast<int>(options_.slot));
  TENAX_TRY(slots_, checkpoint::SlotPair::open(prefix, payload_.bytes));
  for (int i = 0; i < 2; ++i) pinned_[i] = engine_->device().pin(slots_->payload(i));
  return {};
}

Status TrainLoop::snapshot(const Plan& plan, int rank, GenerationLink& link) {
  std::int64_t step = 0;
  {
    MutexLock lock(state_mutex_);
    step = held_.last_applied;
  }
  TENAX_RETURN_IF_ERROR(finish_snapshot());
  const SnapshotSpan span(trace_, snapshot_wait_);
  if (!gate_.wait_free(link.stop_token())) return make_error(ErrorCode::kAborted, link.reason());
  Pending taken;
  taken.rank = static_cast<std::uint32_t>(rank);
  taken.index = gate_.next_index();
  taken.header.branch = plan.branch;
  taken.header.step = step;
  taken.header.generation = plan.generation;
  taken.header.incarnation = options_.incarnation;
  taken.header.payload_bytes = payload_.bytes;
  TENAX_TRY(const bool whole, begin_copy_to_payload(*engine_, slots_->begin(taken.index)));
  pending_ = taken;
  snapshot_step_ = step;
  return whole ? seal_snapshot() : Status();
}

Status TrainLoop::finish_snapshot() {
  if (!pending_) return {};
  const SnapshotSpan span(trace_, snapshot_wait_);
  return seal_snapshot();
}

Status TrainLoop::seal_snapshot() {
  const Pending taken = *std::exchange(pending_, std::nullopt);
  const checkpoint::SlotHeader& header = taken.header;
  TENAX_RETURN_IF_ERROR(engine_->finish_reading());
  TENAX_RETURN_IF_ERROR(slots_->seal(taken.index, header));
  gate_.sealed(header.branch, header.step, taken.index);
  send_(wire::SnapshotSealed{
      taken.rank, header.branch, header.step, static_cast<std::uint8_t>(taken.index),
      checkpoint::encode_table(payload_.table), payload_.writes, payload_.replicated_bytes});
  return {};
}

void TrainLoop::drop_snapshot() {
  if (!std::exchange(pending_, std::nullopt)) return;
  if (const Status read = engine_->finish_reading(); !read)
    spdlog::warn("a snapshot was given up: {}", read.error().message);
}

Status TrainLoop::check_integrity(const Plan& plan, int rank, std::int64_t step) {
  const std::int64_t interval = config_.supervision.integrity_interval;
  if (interval <= 0 || step % interval != 0 || plan.degrees.dp < 2) return {};
  TENAX_TRY(const Hash128 values, engine_->hash_of(engine_->values()));
  std::string hashes = values.hex();
  if (engine_->options().zero == 0) {  // else each replica has moments of its own
    for (const std::span<float> part : {engine_->adam_m(), engine_->adam_v()}) {
      TENAX_TRY(const Hash128 moments, engine_->hash_of(part));
      hashes += moments.hex();
    }
  }
  send_(
      wire::ShardHash{static_cast<std::uint32_t>(rank), plan.branch, step, hash128(hashes).hex()});
  return {};
}

}  // namespace tenax::actors
