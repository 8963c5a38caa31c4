#include "scheduler/run_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>

using nlohmann::json;

namespace nlohmann {

template <class T>
struct adl_serializer<std::optional<T>> {
  static void to_json(json& j, const std::optional<T>& v) {
    if (v) {
      j = *v;
    } else {
      j = nullptr;
    }
  }
  static void from_json(const json& j, std::optional<T>& v) {
    if (j.is_null()) {
      v.reset();
    } else {
      v = j.get<T>();
    }
  }
};

template <>
struct adl_serializer<tenax::Time> {
  static void to_json(json& j, const tenax::Time& t) { j = t.time_since_epoch().count(); }
  static void from_json(const json& j, tenax::Time& t) {
    t = tenax::Time(tenax::Duration(j.get<std::int64_t>()));
  }
};

}  // namespace nlohmann

namespace tenax {

namespace {

json number(double v) {
  if (std::isnan(v)) return "NaN";
  if (std::isinf(v)) return v > 0 ? "Infinity" : "-Infinity";
  return v;
}

double number(const json& j) {
  if (!j.is_string()) return j.get<double>();
  const std::string text = j.get<std::string>();
  if (text == "Infinity") return std::numeric_limits<double>::infinity();
  if (text == "-Infinity") return -std::numeric_limits<double>::infinity();
  return std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(SkipWindow, begin, end)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Softening, first, last, factor)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Degrees, dp, tp, pp)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RankSource, kind, peer)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(FlightNote, sequence, operation, within, peer, bytes, state,
                                   seconds)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(WorkerCommand, number, kind)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(GuardState, samples, norm_level, norm_mean, norm_variance,
                                   quiet_until)

void to_json(json& j, const StepReport& r) {
  j = json{{"branch", r.branch},
           {"step", r.step},
           {"loss", number(r.loss)},
           {"grad_norm", number(r.grad_norm)},
           {"learning_rate", number(r.learning_rate)},
           {"tokens", r.tokens},
           {"position_begin", r.position_begin},
           {"position_end", r.position_end},
           {"update", r.update},
           {"seconds", r.seconds},
           {"clip_norm", r.clip_norm}};
  if (r.has_eval) j["eval_loss"] = number(r.eval_loss);
  if (r.held != HoldOutcome::kNotHeld) j["held"] = r.held;
  if (r.suspect_rank >= 0) j["suspect_rank"] = r.suspect_rank;
  if (r.snapshot_seconds > 0) j["snapshot_seconds"] = r.snapshot_seconds;
  for (const double loss : r.replica_losses) j["replica_losses"].push_back(number(loss));
}

void from_json(const json& j, StepReport& r) {
  j.at("branch").get_to(r.branch);
  j.at("step").get_to(r.step);
  r.loss = number(j.at("loss"));
  r.grad_norm = number(j.at("grad_norm"));
  r.learning_rate = number(j.at("learning_rate"));
  j.at("tokens").get_to(r.tokens);
  j.at("position_begin").get_to(r.position_begin);
  j.at("position_end").get_to(r.position_end);
  j.at("update").get_to(r.update);
  j.at("seconds").get_to(r.seconds);
  r.has_eval = j.contains("eval_loss");
  if (r.has_eval) r.eval_loss = number(j.at("eval_loss"));
  r.clip_norm = j.value("clip_norm", 0.0);
  r.held = j.value("held", HoldOutcome::kNotHeld);
  r.suspect_rank = j.value("suspect_rank", -1);
  r.snapshot_seconds = j.value("snapshot_seconds", 0.0);
  if (j.contains("replica_losses")) {
    for (const json& loss : j.at("replica_losses")) r.replica_losses.push_back(number(loss));
  }
}

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(RankState, has_weights, branch, last_applied,
                                                gradients_ready, verdict_known, verdict, reports,
                                                rank, degrees)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(Plan, generation, branch, step, total_steps,
                                                degrees, sources, checkpoint_id, checkpoint_branch,
                                                has_half_step, half_step, skip_windows, softenings,
                                                guard)

namespace scheduler {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(SupervisorStarted, term, total_steps, config_changes, manifests,
                                   agents_alive)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(WorkerSeen, slot, incarnation, pid, rank,
                                                generation, training, up)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(AgentJoined, agent, incarnation, pid, host, num_slots, workers)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(AgentLost, agent, incarnation, evidence)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(WorkerUp, agent, slot, incarnation, pid)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(WorkerExited, agent, slot, incarnation, status,
                                                log_tail)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(RankFormed, rank, generation, step, source, seconds,
                                                worker, restore_seconds, bytes, rejected)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(RankStopped, rank, generation, state, reason,
                                                bad_checkpoint, worker, flight)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(RankFinished, rank, generation, step, cause, worker)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(StepReported, generation, report)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ShardWritten, rank, generation, branch, step, checkpoint_id,
                                   bytes, seconds, digest)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ShardFailed, rank, generation, branch, step, checkpoint_id,
                                   error)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(CommitEnded, checkpoint_id, ok, error, bytes,
                                                free_bytes)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(VerifyEnded, checkpoint_id, ok, error)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(StopRequested, kind, by)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(CheckpointImported, checkpoint_id, bytes, source)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(PruneRequested, keep_last, in_use, by)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(AgentAsked, token, host, pid, num_slots)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(DrainRequested, agent, by)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ScaleRequested, target, by)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ShardHashed, rank, generation, branch, step, hash)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(PaceChanged, rank, generation, straggles, score, text)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RollbackRequested, to, skip_first, skip_last, lr_factor,
                                   lr_steps, by)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(ReplayEnded, id, compared, difference_step, replica,
                                                detail, error, tokens_damaged, spread)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(DeviceReported, agent, slot, incarnation, trouble, text, ends)
void to_json(json& j, const TimerFired&) { j = json::object(); }
void from_json(const json&, TimerFired&) {}

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(SpawnAgent, agent, incarnation)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(SpawnWorker, agent, slot, incarnation)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(KillWorker, agent, slot, incarnation, reason)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(KillAgent, agent, incarnation, reason)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(AbortGeneration, generation, counted_step, reason)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(StartGeneration::Seat, agent, slot, incarnation)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(StartGeneration, plan, seats)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(IssueCommand, command)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(CommitCheckpoint, checkpoint_id, branch, step, position)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(DiscardCheckpoint, checkpoint_id, branch, step, reason)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(VerifyCheckpoint, checkpoint_id)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(DeleteCheckpoint, checkpoint_id, reason)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Note, severity, text)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Finish, exit_code, reason)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(AdmitAgent, agent, incarnation, token, refusal)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ReleaseAgent, agent, incarnation, reason)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(SuspectDevice, rank, agent, slot, evidence)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(KeepSamples, branch, first_step, last_step, name)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ReplaySteps, id, checkpoint_id, from, to)

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RestartHistory, restarts)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(Seat, agent, slot, rank, retired, incarnation, pid,
                                                state, held, restarts, finished_step, finish_cause,
                                                spawned_at, spawn_at, device_trouble)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(AgentState, incarnation, pid, host, up, spawned_at,
                                                asked, restarts, history, worker_history, joined,
                                                token, draining, gone, excluded_until, exclusions)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(SectionWatchState, seconds)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(BranchInfo, id, parent, step)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(CheckpointInfo, id, branch, step, generation,
                                                committing, committed, read_back, sound, verified,
                                                quarantined, bytes, seconds, shards, guard)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(SpikeBaselineState, losses, grad_norms, level, sigma, slope,
                                   grad_norm_level, stale)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(SpikeDetectorState, phase, baseline, recent, first_losses,
                                   last_step, last_gap, num_samples, hold_samples, cooldown_samples,
                                   ramp_until, check_restore, onset, since_onset, since_verdict,
                                   suspicious, arming, divergent, recovered_left, peak, bad_streak,
                                   bad_onset, overflows, overflow_reported, missing_streak,
                                   missing_onset, drop_streak, drop_onset, block, block_begin,
                                   block_levels, shift_streak, shift_onset)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RollbackRecord, branch, onset, branch_point, skip_first,
                                   skip_last)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(LadderHistory, rollbacks, total_steps, restore_failures)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(SpikeMonitorState, base, now, history, ladder,
                                                guard_base, guard_base_step, unsound_steps)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(SpikeDecision, roll_back, replay, load_older, stop, step, onset,
                                   branch_point, skip, softening, reason)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(PendingReplay, id, cause, decision, checkpoint_id, from, to,
                                   tokens_damaged)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ReplayDispute, step, loss, grad_norm, checkpoint_id)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(
    RunState, term, generation, branch, next_branch, next_incarnation, next_command, phase,
    total_steps, counted_step, last_progress_generation, seats, degrees, target, regroup,
    retire_surplus, agents, branches, checkpoints, skip_windows, softenings, spikes, fault_at,
    culprit, culprit_strength, deadline, last_progress_at, stop_requested, stop_issued, stop_kind,
    restarts, rollbacks, device_troubles, save_failures, failed_checkpoint, failed_step, save_error,
    exit_code, finish_reason, config_digest, watch, last_report_at, newest_report_step,
    first_of_generation, setup_began, flights, hashes_step, hashes, distrust_memory, replay,
    next_replay, dispute, replays_another_schedule, load_before, loaded_checkpoint, loaded_step,
    aborted_at)

namespace {

constexpr std::array<std::string_view, std::variant_size_v<Event>> kEventNames = {
    "SupervisorStarted", "AgentJoined",   "AgentLost",         "WorkerUp",
    "WorkerExited",      "RankFormed",    "RankStopped",       "RankFinished",
    "StepReported",      "ShardWritten",  "ShardFailed",       "CommitEnded",
    "VerifyEnded",       "StopRequested", "TimerFired",        "CheckpointImported",
    "PruneRequested",    "AgentAsked",    "DrainRequested",    "ScaleRequested",
    "ShardHashed",       "PaceChanged",   "RollbackRequested", "ReplayEnded",
    "DeviceReported"};

constexpr std::array<std::string_view, std::variant_size_v<Command>> kCommandNames = {
    "SpawnAgent",       "SpawnWorker",  "KillWorker",       "KillAgent",         "AbortGeneration",
    "StartGeneration",  "IssueCommand", "CommitCheckpoint", "DiscardCheckpoint", "VerifyCheckpoint",
    "DeleteCheckpoint", "Note",         "Finish",           "AdmitAgent",        "ReleaseAgent",
    "SuspectDevice",    "KeepSamples",  "ReplaySteps"};

template <class Variant, std::size_t N, std::size_t I = 0>
Variant variant_from_json(const std::array<std::string_view, N>& names, const json& j) {
  if constexpr (I == N) {
    throw json::other_error::create(500, "unknown kind " + j.at("type").dump(), &j);
  } else {
    if (j.at("type").get<std::string>() == names[I]) {
      return j.get<std::variant_alternative_t<I, Variant>>();
    }
    return variant_from_json<Variant, N, I + 1>(names, j);
  }
}

template <class Variant, std::size_t N>
json variant_to_json(const std::array<std::string_view, N>& names, const Variant& v) {
  json j = std::visit([](const auto& m) { return json(m); }, v);
  j["type"] = names[v.index()];
  return j;
}

template <class T, class F>
Result<T> parse(std::string_view text, std::string_view what, F f) {
  try {
    return f(json::parse(text));
  } catch (const json::exception& e) {
    return make_error(ErrorCode::kDataLoss, fmt::format("{} cannot be read: {}", what, e.what()));
  }
}

}  // namespace

std::string_view name_of(const Event& event) { return kEventNames[event.index()]; }
std::string_view name_of(const Command& command) { return kCommandNames[command.index()]; }

std::string_view to_string(Severity severity) {
  switch (severity) {
    case Severity::kInfo:
      return "info";
    case Severity::kNotice:
      return "notice";
    case Severity::kWarning:
      return "warning";
    case Severity::kError:
      return "error";
  }
  return "info";
}

bool begins_a_generation(const std::vector<Command>& commands) {
  return std::any_of(commands.begin(), commands.end(),
                     [](const Command& c) { return std::holds_alternative<AbortGeneration>(c); });
}

Severity severity_of(const JournalEntry& entry) {
  Severity worst = Severity::kInfo;
  for (const Command& c : entry.commands) {
    if (const Note* note = std::get_if<Note>(&c)) worst = std::max(worst, note->severity);
  }
  return worst;
}

bool is_told(const JournalEntry& entry) {
  return std::any_of(entry.commands.begin(), entry.commands.end(), [](const Command& c) {
    return std::holds_alternative<Note>(c) || std::holds_alternative<Finish>(c);
  });
}

std::string describe(const JournalEntry& entry) {
  std::string text;
  for (const Command& c : entry.commands) {
    if (const Note* note = std::get_if<Note>(&c)) {
      if (!text.empty()) text += "; ";
      text += note->text;
    } else if (const Finish* finish = std::get_if<Finish>(&c)) {
      if (!text.empty()) text += "; ";
      text += fmt::format("run ends with exit code {}: {}", finish->exit_code, finish->reason);
    }
  }
  if (!text.empty()) return text;
  if (const auto* e = std::get_if<StepReported>(&entry.event)) {
    return fmt::format("step {} (branch {}): loss {:.4f}, gradient norm {:.3f}", e->report.step,
                       e->report.branch, e->report.loss, e->report.grad_norm);
  }
  if (const auto* e = std::get_if<ShardWritten>(&entry.event)) {
    return fmt::format("rank {} has written its share of checkpoint {} (step {})", e->rank,
                       e->checkpoint_id, e->step);
  }
  if (const auto* e = std::get_if<WorkerUp>(&entry.event)) {
    return fmt::format("worker {}.{} is up (pid {})", e->agent, e->slot, e->pid);
  }
  if (const auto* e = std::get_if<RankFormed>(&entry.event)) {
    return fmt::format("rank {} is ready after step {} in {:.3f} s: {}", e->rank, e->step,
                       e->seconds, e->source);
  }
  if (const auto* e = std::get_if<RankStopped>(&entry.event)) {
    return fmt::format("rank {} stopped after step {}: {}", e->rank, e->state.last_applied,
                       e->reason);
  }
  if (const auto* e = std::get_if<RankFinished>(&entry.event)) {
    return fmt::format("rank {} left the loop after step {}", e->rank, e->step);
  }
  if (const auto* e = std::get_if<VerifyEnded>(&entry.event)) {
    return fmt::format("checkpoint {} was read back: {}", e->checkpoint_id,
                       e->ok ? "every hash is right" : e->error);
  }
  return std::string(name_of(entry.event));
}

std::string to_json(const JournalEntry& entry) {
  json commands = json::array();
  for (const Command& c : entry.commands) commands.push_back(variant_to_json(kCommandNames, c));
  const json j = {{"seq", entry.seq},
                  {"time", format_time(entry.time)},
                  {"time_ns", entry.time.time_since_epoch().count()},
                  {"term", entry.term},
                  {"generation", entry.generation},
                  {"kind", name_of(entry.event)},
                  {"severity", to_string(severity_of(entry))},
                  {"text", describe(entry)},
                  {"event", variant_to_json(kEventNames, entry.event)},
                  {"commands", std::move(commands)}};
  return j.dump(-1, ' ', false, json::error_handler_t::replace);
}

Result<JournalEntry> journal_entry_from_json(std::string_view text) {
  return parse<JournalEntry>(text, "a journal entry", [](const json& j) {
    JournalEntry entry;
    j.at("seq").get_to(entry.seq);
    entry.time = Time(Duration(j.at("time_ns").get<std::int64_t>()));
    j.at("term").get_to(entry.term);
    j.at("generation").get_to(entry.generation);
    entry.event = variant_from_json<Event>(kEventNames, j.at("event"));
    for (const json& c : j.at("commands")) {
      entry.commands.push_back(variant_from_json<Command>(kCommandNames, c));
    }
    return entry;
  });
}

std::string to_json(const ReplayEnded& result) { return json(result).dump(); }

Result<ReplayEnded> replay_result_from_json(std::string_view text) {
  return parse<ReplayEnded>(text, "the replay's result",
                            [](const json& j) { return j.get<ReplayEnded>(); });
}

std::string to_json(const RollbackRequested& request) { return json(request).dump(); }

Result<RollbackRequested> rollback_from_json(std::string_view text) {
  const json j = json::parse(text, nullptr, false);
  try {
    return j.get<RollbackRequested>();
  } catch (const json::exception& e) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("not an order to roll back: {}", e.what()));
  }
}

std::string to_json(const RunState& state) {
  return json(state).dump(-1, ' ', false, json::error_handler_t::replace);
}

Result<RunState> run_state_from_json(std::string_view text) {
  return parse<RunState>(text, "the saved run state", [](const json& j) {
    auto state = j.get<RunState>();
    if (!j.contains("target")) {  // saved when a seat was a rank
      for (std::size_t i = 0; i < state.seats.size(); ++i)
        state.seats[i].rank = static_cast<int>(i);
      state.target = state.degrees = {0, 0, 0};
    }
    return state;
  });
}

}  // namespace scheduler
}  // namespace tenax
