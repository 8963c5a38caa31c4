#include "actors/train_loop.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <utility>

#include "actors/engine_setup.h"
#include "actors/network_interface.h"
#include "compute/cpu/gloo_communicator.h"

namespace tenax::actors {

namespace {

constexpr std::size_t kMaxReports = 4096;
constexpr int kUnwatched = 20;
constexpr std::size_t kFlightEntries = 256;
constexpr std::size_t kTraceEvents = 16384;
constexpr std::size_t kFlightNotes = 12;  ///< sent, besides those that have not ended

}  // namespace

Duration TrainLoop::scaled(Duration d) const {
  return from_seconds(to_seconds(d) * config_.run.time_scale);
}

TrainLoop::TrainLoop(TrainLoopOptions options, const Clock& clock, SlotGate& gate, Send send)
    : options_(std::move(options)),
      clock_(clock),
      gate_(gate),
      send_(std::move(send)),
      recorder_(kFlightEntries, clock),
      trace_(clock, kTraceEvents) {
  recorder_.set_trace(&trace_);
}

RankState TrainLoop::state(std::int64_t counted_step) const {
  MutexLock lock(state_mutex_);
  RankState state = held_;
  for (const StepReport& r : reports_) {
    if (r.step > counted_step) state.reports.push_back(r);
  }
  return state;
}

std::vector<FlightNote> TrainLoop::flight() const {
  const std::vector<compute::FlightEntry> entries = recorder_.snapshot();
  const Time now = clock_.now();
  std::vector<FlightNote> notes;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const compute::FlightEntry& e = entries[i];
    const bool open = e.open();
    if (!open && i + kFlightNotes < entries.size()) continue;
    notes.push_back({e.sequence, std::string(e.operation), std::string(e.within), e.peer, e.bytes,
                     std::string(compute::to_string(e.state)),
                     to_seconds((open ? now : e.end) - e.start)});
  }
  return notes;
}

std::optional<TrainLoop::Stopped> TrainLoop::run(const wire::PlanFor& message,
                                                 GenerationLink& link) {
  const Plan& plan = message.plan;
  const int rank = static_cast<int>(message.rank);
  const Time begin = clock_.now();
  bad_checkpoint_ = 0;
  obeyed_ = 0;
  snapshot_step_ = -1;
  snapshot_wait_ = {};
  plan_digest_ = wire::plan_digest(plan);
  const auto body = [&]() -> Status {
    TENAX_RETURN_IF_ERROR(prepare(message));
    compute::GlooOptions gloo;
    gloo.rank = rank;
    gloo.world_size = plan.degrees.world_size();
    gloo.form_timeout = scaled(config_.supervision.form_timeout);
    // The supervisor finds hangs much sooner; this one is for a worker that nobody watches.
    gloo.operation_timeout = kUnwatched * scaled(config_.supervision.hang_timeout);
    gloo.key_prefix = fmt::format("generation{}", plan.generation);
    gloo.recorder = &recorder_;
    // The link outlives the communicator: it is destroyed by the caller after run() has returned.
    const std::shared_ptr<compute::Rendezvous> rendezvous(&link, [](compute::Rendezvous*) {});
    TENAX_TRY(const auto comm,
              compute::GlooCommunicator::create(device_, gloo, rendezvous, link.stop_token()));
    TENAX_RETURN_IF_ERROR(connect_gpus(plan, *comm, link));
    RestoreSource source;
    const Time connected = clock_.now();
    TENAX_RETURN_IF_ERROR(restore(plan, rank, *comm, source));
    const Time now = clock_.now();
    send_(wire::RankFormed{message.rank, plan.step, source.text, to_seconds(now - begin),
                           to_seconds(now - connected), source.bytes, source.rejected});
    return train(plan, rank, *comm, link);
  };
  const Status status = body();
  const bool lost = !status && tell_failure(rank, status.error(), link.aborted());
  drop_snapshot();
  if (engine_) static_cast<void>(engine_->use(nullptr));  // takes no memory
  if (status) compute::finish_in_order(gpus_.peers.get(), gpus_.neighbours);
  gpus_ = {};
  if (gpu_) spdlog::info("{}", gpu_->memory_text());
  if (status) return std::nullopt;
  return Stopped{link.aborted() ? link.reason() : status.error().message, bad_checkpoint_, lost};
}

Status TrainLoop::prepare(const wire::PlanFor& message) {
  if (message.config != config_text_) {
    TENAX_TRY(config_, configs::parse_run_config(message.config, "the run's configuration", {}));
    schedule_ = lr_schedule_of(config_);
    TENAX_RETURN_IF_ERROR(prepare_device());
    guard_options_ = configs::guard_options(config_);
    TENAX_TRY(data_,
              StepData::open(config_, options_.directory.corpora(config_.data.num_corpora())));
    config_text_ = message.config;
  }
  TENAX_TRY(const std::string address,
            resolve_address("network.data_interface", config_.network.data_interface));
  if (!device_ || address != device_address_) {
    TENAX_TRY(device_, compute::GlooDevice::open(address));
    device_address_ = address;
  }
  softenings_ = message.plan.softenings;
  data_->set_skip_windows(message.plan.skip_windows);
  const int rank = static_cast<int>(message.rank);
  faults_.set(config_.faults, rank, message.plan.generation);
  if (!engine_ || engine_->options().rank != rank || !(degrees_ == message.plan.degrees)) {
    TENAX_RETURN_IF_ERROR(build_engine(message.plan, rank));
  }
  return {};
}

Status TrainLoop::build_engine(const Plan& plan, int rank) {
  const Degrees& degrees = plan.degrees;
  const bool keeps = engine_ != nullptr &&
                     plan.sources[static_cast<std::size_t>(rank)].kind == SourceKind::kMemory;
  if (keeps) finish_half_step(plan);  // the gradients stay with the old engine
  std::unique_ptr<compute::Engine> before = std::exchange(engine_, nullptr);
  if (!keeps) before.reset();
  degrees_ = degrees;
  RankState held;
  {
    MutexLock lock(state_mutex_);
    held = std::exchange(held_, {});
    if (!keeps) reports_.clear();
  }
  compute::EngineOptions options = engine_options(config_, data_->vocabulary_size(), degrees, rank);
  options.settings.cuda = gpu_;
  options.trace = &trace_;
  TENAX_TRY(engine_, compute::Engine::create(std::move(options)));
  if (keeps) {
    TENAX_RETURN_IF_ERROR(engine_->take_state(*before));
    held.gradients_ready = 0;
    held.verdict_known = false;
    MutexLock lock(state_mutex_);
    held_ = held;
  }
  // A run goes on without traces where they cannot be written.
  trace_file_.reset();
  if (auto file = TraceFile::open(options_.directory.trace(rank))) trace_file_ = *std::move(file);
  eval_schedule_ = forward_schedule(engine_->options(), data_->num_heldout_microbatches());
  samples_.reset();
  if (!engine_->sample_losses().empty()) {
    auto log = SampleLog::open(options_.directory.samples() / fmt::format("rank{}.ring", rank));
    if (log) {
      samples_ = *std::move(log);
    } else {  // training does not depend on it
      spdlog::warn("{}", log.error().message);
    }
  }
  payload_ = payload_of(*engine_);
  return slots_ && slots_->payload_bytes() == payload_.bytes ? Status() : open_slots();
}

// --- The loop

Status TrainLoop::train(const Plan& plan, int rank, compute::Communicator& comm,
                        GenerationLink& link) {
  std::int64_t done = plan.step;
  bool stop = false;
  bool regroup = false;
  while (done < plan.total_steps && !stop && !regroup) {
    compute::Verdict verdict;
    TENAX_RETURN_IF_ERROR(step(plan, comm, link, verdict));
    ++done;
    TENAX_RETURN_IF_ERROR(check_integrity(plan, rank, done));
    const std::int64_t interval = config_.checkpoint.interval;
    bool save = interval > 0 && done % interval == 0 &&
                (verdict.slots_free || config_.checkpoint.policy == configs::SlotPolicy::kWait);
    for (; obeyed_ < verdict.command; ++obeyed_) {
      switch (link.command_kind(obeyed_ + 1)) {
        case WorkerCommandKind::kStop:
          stop = true;
          break;
        case WorkerCommandKind::kSnapshot:
          save = true;
          break;
        case WorkerCommandKind::kRegroup:
          regroup = true;
          break;
      }
    }
    if (save) TENAX_RETURN_IF_ERROR(snapshot(plan, rank, link));
    keep_trace(plan);
  }
  const FinishCause cause = done >= plan.total_steps ? FinishCause::kDone
                            : stop                   ? FinishCause::kStopped
                                                     : FinishCause::kRegrouped;
  if (cause != FinishCause::kRegrouped && snapshot_step_ != done)
    TENAX_RETURN_IF_ERROR(snapshot(plan, rank, link));
  TENAX_RETURN_IF_ERROR(finish_snapshot());
  send_(wire::RankFinished{static_cast<std::uint32_t>(rank), done, cause});
  return {};
}

Result<compute::Verdict> TrainLoop::compute_once(compute::Communicator& comm, GenerationLink& link,
                                                 std::uint64_t branch, std::int64_t step,
                                                 int attempt, const Hash128& first_hash) {
  {
    MutexLock lock(state_mutex_);
    held_.gradients_ready = 0;
    held_.verdict_known = false;
  }
  if (attempt == 0) trace_.begin_step(step);
  TENAX_RETURN_IF_ERROR(use_batch_of(*engine_, config_, degrees_, data_->num_microbatches(step)));
  const compute::EngineOptions& o = engine_->options();
  const compute::MicrobatchRange range = o.ranges[static_cast<std::size_t>(o.replica)];
  std::span<compute::Microbatch> batches;
  {
    const compute::TraceSpan span(&trace_, compute::TraceKind::kData);
    batches = data_->microbatches(step, range.begin, range.end);
  }
  faults_.mark(branch, step, attempt, batches);
  TENAX_RETURN_IF_ERROR(engine_->compute_gradients(comm, batches));
  // Before the verdict: who knows it can read the notes of all ranks.
  note_samples(branch, step);
  {
    MutexLock lock(state_mutex_);
    held_.gradients_ready = step;
  }
  // The slot is full or free before all ranks agree on the next snapshot.
  TENAX_RETURN_IF_ERROR(finish_snapshot());
  TENAX_RETURN_IF_ERROR(keep_plans());
  compute::VerdictPart part = engine_->verdict_part();
  part.step = step;
  part.plan_digest = plan_digest_;
  part.newest_command = link.newest_command();
  part.slot_free = gate_.free();
  if (attempt > 0) {
    TENAX_TRY(const Hash128 hash, engine_->own_gradient_hash());
    part.differs = hash != first_hash;
  }
  const compute::TraceSpan span(&trace_, compute::TraceKind::kVerdict);
  return engine_->exchange_verdict(comm, part);
}

/// Fills in what the verdict says. A held step is computed twice; nobody has a verdict to apply
/// before the second computation is known to all.
Result<compute::Verdict> TrainLoop::compute_and_judge(compute::Communicator& comm,
                                                      GenerationLink& link, StepReport& report) {
  TENAX_TRY(compute::Verdict verdict, compute_once(comm, link, report.branch, report.step, 0, {}));
  scheduler::GuardVerdict judged = scheduler::judge_step(
      guard_options_, guard_, {report.step, verdict.loss, verdict.grad_norm, report.held});
  if (judged.action == scheduler::GuardAction::kHold) {
    TENAX_TRY(const Hash128 first_hash, engine_->own_gradient_hash());
    const auto bits = [](const compute::Verdict& v) {
      return std::pair(std::bit_cast<std::uint64_t>(v.loss),
                       std::bit_cast<std::uint64_t>(v.grad_norm));
    };
    const auto first_bits = bits(verdict);
    TENAX_TRY(verdict, compute_once(comm, link, report.branch, report.step, 1, first_hash));
    const bool same = verdict.num_differing == 0 && bits(verdict) == first_bits;
    report.held = same ? HoldOutcome::kSame : HoldOutcome::kDiffered;
    if (verdict.num_differing == 1) report.suspect_rank = verdict.differing_rank;
    judged = scheduler::judge_step(guard_options_, guard_,
                                   {report.step, verdict.loss, verdict.grad_norm, report.held});
  }
  report.loss = verdict.loss;
  report.grad_norm = verdict.grad_norm;
  report.tokens = verdict.targets;
  report.update = judged.update;
  report.clip_norm = judged.clip_norm;
  report.replica_losses.assign(verdict.replica_losses.begin(), verdict.replica_losses.end());
  return verdict;
}

Status TrainLoop::step(const Plan& plan, compute::Communicator& comm, GenerationLink& link,
                       compute::Verdict& verdict) {
  const Time begin = clock_.now();
  const Duration blocked = recorder_.blocked();
  StepReport report;
  report.branch = plan.branch;
  {
    MutexLock lock(state_mutex_);
    report.step = held_.last_applied + 1;
  }
  const std::int64_t step = report.step;
  report.learning_rate = rate(step);
  report.position_begin = data_->position_begin(step);
  report.position_end = data_->position_end(step);
  TENAX_RETURN_IF_ERROR(faults_.before_step(plan.branch, step, *engine_, gpu_.get()));
  TENAX_TRY(verdict, compute_and_judge(comm, link, report));
  {
    MutexLock lock(state_mutex_);
    held_.verdict_known = true;
    held_.verdict = report;
  }
  apply(report);
  TENAX_RETURN_IF_ERROR(engine_->share_weights(comm));
  if (config_.train.eval_interval > 0 &&
      (step % config_.train.eval_interval == 0 || step == plan.total_steps)) {
    TENAX_RETURN_IF_ERROR(evaluate(comm, report));
  }
  report.seconds = to_seconds(clock_.now() - begin);
  report.snapshot_seconds = to_seconds(std::exchange(snapshot_wait_, {}));
  {
    MutexLock lock(state_mutex_);
    reports_.back() = report;
  }
  watch_gpu();
  send_(wire::StepDone{report});
  send_(wire::Pace{std::max(0.0, report.seconds - to_seconds(recorder_.blocked() - blocked))});
  return {};
}

void TrainLoop::keep_trace(const Plan& plan) {
  if (!trace_file_) return;
  if (!trace_file_->append(static_cast<std::uint32_t>(plan.generation), trace_.events()))
    trace_file_.reset();
}

void TrainLoop::apply(const StepReport& verdict) {
  if (verdict.update == UpdateKind::kApplied) {
    const compute::TraceSpan span(&trace_, compute::TraceKind::kUpdate);
    engine_->apply_update({verdict.grad_norm, verdict.clip_norm, verdict.tokens,
                           verdict.learning_rate, verdict.step});
  }
  scheduler::observe_step(guard_options_, verdict, guard_);
  MutexLock lock(state_mutex_);
  held_.last_applied = verdict.step;
  reports_.push_back(verdict);
  if (reports_.size() > kMaxReports) reports_.pop_front();
}

void TrainLoop::note_samples(std::uint64_t branch, std::int64_t step) {
  const std::span<const double> sums = engine_->sample_losses();
  if (!samples_ || sums.empty()) return;
  const compute::EngineOptions& o = engine_->options();
  const std::vector<std::int64_t> positions = data_->positions(step);
  const std::size_t first = static_cast<std::size_t>(
      o.ranges[static_cast<std::size_t>(o.replica)].begin * o.shape.microbatch_size);
  for (std::size_t i = 0; i < sums.size(); ++i) {
    samples_->add({branch, step, positions[first + i],
                   sums[i] / static_cast<double>(o.shape.sequence_length)});
  }
}

Status TrainLoop::evaluate(compute::Communicator& comm, StepReport& report) {
  const int count = data_->num_heldout_microbatches();
  if (count == 0) return {};
  const compute::MicrobatchRange share = heldout_share(engine_->options(), count);
  const auto mine = data_->heldout(share.begin, share.end);
  const compute::TraceSpan span(&trace_, compute::TraceKind::kEvaluate);
  TENAX_TRY(report.eval_loss, engine_->evaluate(comm, mine, eval_schedule_, count));
  report.has_eval = true;
  return {};
}

double TrainLoop::rate(std::int64_t step) const {
  double rate = compute::learning_rate(schedule_, step) * faults_.learning_rate_factor(step);
  for (const Softening& s : softenings_) {
    if (step >= s.first && step <= s.last) rate *= s.factor;
  }
  return rate;
}

}  // namespace tenax::actors
