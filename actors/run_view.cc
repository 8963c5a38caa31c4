#include "actors/run_view.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "actors/handler_watch.h"
#include "scheduler/layout.h"

using nlohmann::json;

namespace tenax::actors {

namespace {

constexpr std::size_t kMaxTold = 5000;     ///< journal entries that say something to people
constexpr std::size_t kMaxRoutine = 1000;  ///< others; two a step
constexpr std::size_t kRateSteps = 20;     ///< steps that tokens per second are measured over

json number(double v) {
  if (std::isnan(v)) return "NaN";
  if (std::isinf(v)) return v > 0 ? "Infinity" : "-Infinity";
  return v;
}

constexpr std::array<const char*, 8> kMetricColumns = {
    "branch",    "step",  "loss", "grad_norm", "learning_rate", "tokens_per_second",
    "eval_loss", "update"};

/// The values of kMetricColumns.
json metrics_row(const StepReport& r) {
  const double rate = r.seconds > 0 ? static_cast<double>(r.tokens) / r.seconds : 0;
  return json::array({r.branch, r.step, number(r.loss), number(r.grad_norm), r.learning_rate, rate,
                      r.has_eval ? number(r.eval_loss) : json(nullptr),
                      r.update == UpdateKind::kApplied ? "applied" : "skipped"});
}

/// The same with names, as the event of a step carries it.
json metrics_object(const StepReport& r) {
  const json row = metrics_row(r);
  json object;
  for (std::size_t i = 0; i < kMetricColumns.size(); ++i) object[kMetricColumns[i]] = row[i];
  return object;
}

std::string_view phase_word(const scheduler::RunState& s) {
  switch (s.phase) {
    case scheduler::Phase::kGathering:
      return s.counted_step == 0 && s.restarts == 0 ? "starting" : "recovering";
    case scheduler::Phase::kForming:
      return "forming";
    case scheduler::Phase::kRunning:
      return s.stop_requested ? "stopping" : "running";
    case scheduler::Phase::kFinishing:
      return "stopping";
    case scheduler::Phase::kFinished:
      return "finished";
  }
  return "unknown";
}

std::string_view checkpoint_word(const scheduler::CheckpointInfo& c) {
  if (c.quarantined) return "quarantined";
  if (c.verified) return "verified";
  return c.committed ? "committed" : "writing";
}

/// Whether a worker is, or is to be, in this place.
bool is_seated(const scheduler::RunState& s, const scheduler::Seat& seat) {
  return !seat.retired && !s.agents[seat.agent].gone;
}

/// The tree that is; a worker without a rank is called a spare, whatever it did before.
json actors_json(const std::vector<ActorInfo>& actors, const scheduler::RunState& s) {
  json list = json::array();
  for (const ActorInfo& a : actors) {
    const auto spare =
        std::find_if(s.seats.begin(), s.seats.end(), [&](const scheduler::Seat& seat) {
          return a.kind == "worker_proxy" && a.pid > 0 && seat.pid == a.pid && seat.rank < 0 &&
                 seat.state == scheduler::SeatState::kFresh;
        });
    const bool is_spare = spare != s.seats.end();
    list.push_back({{"id", std::to_string(a.id)},
                    {"parent", a.parent == 0 ? json(nullptr) : json(std::to_string(a.parent))},
                    {"kind", a.kind},
                    {"name", a.name},
                    {"state", is_spare ? "up" : a.state},
                    {"detail", is_spare ? "spare" : a.detail},
                    {"pid", a.pid},
                    {"since", format_time(a.since)},
                    {"restarts", 0}});
  }
  return list;
}

json seat_json(const scheduler::Seat& seat) {
  return {
      {"agent", seat.agent},
      {"slot", seat.slot},
      {"pid", seat.pid},
      {"incarnation", seat.incarnation},
      {"state", scheduler::to_string(seat.state)},
      {"restarts", seat.restarts},
      {"device_trouble", seat.device_trouble.empty() ? json(nullptr) : json(seat.device_trouble)}};
}

json ranks_json(const scheduler::RunState& s,
                const std::map<int, scheduler::StragglerScore>& scores) {
  std::map<int, json> by_rank;
  for (const scheduler::Seat& seat : s.seats) {
    if (!is_seated(s, seat) || seat.rank < 0) continue;
    json row = seat_json(seat);
    const auto place = scheduler::coordinates_of(s.degrees, seat.rank);
    row["rank"] = seat.rank;
    row["stage"] = place.pp;
    row["dp_rank"] = place.dp;
    row["tp_rank"] = place.tp;
    row["last_step"] = s.counted_step;
    const auto score = scores.find(seat.rank);
    row["straggler_score"] = score != scores.end() ? json(score->second.score()) : json(nullptr);
    row["straggles"] = score != scores.end() && score->second.straggles;
    by_rank[seat.rank] = std::move(row);
  }
  json list = json::array();
  for (auto& [rank, row] : by_rank) list.push_back(std::move(row));
  return list;
}

std::string_view agent_word(const scheduler::AgentState& a) {
  if (a.excluded_until) return "excluded";
  if (a.gone) return "gone";
  if (a.draining) return "draining";
  return a.up ? "up" : "starting";
}

json agents_json(const scheduler::RunState& s) {
  json list = json::array();
  for (std::size_t id = 0; id < s.agents.size(); ++id) {
    const scheduler::AgentState& a = s.agents[id];
    int ranks = 0;
    int spares = 0;
    for (const scheduler::Seat& seat : s.seats) {
      if (seat.agent == id && is_seated(s, seat)) ++(seat.rank < 0 ? spares : ranks);
    }
    list.push_back({{"agent", id},
                    {"host", a.host},
                    {"pid", a.pid},
                    {"state", agent_word(a)},
                    {"joined", a.joined},
                    {"restarts", a.restarts},
                    {"ranks", ranks},
                    {"spares", spares},
                    {"excluded_until",
                     a.excluded_until ? json(format_time(*a.excluded_until)) : json(nullptr)}});
  }
  return list;
}

}  // namespace

RunView::RunView(RunFacts facts, const Clock& clock, const ActorRegistry& registry)
    : facts_(std::move(facts)), clock_(clock), registry_(registry), started_(clock.now()) {}

void RunView::remember(const scheduler::JournalEntry& entry, std::string text) {
  const bool told = scheduler::is_told(entry);
  auto& kept = told ? told_ : routine_;
  kept.emplace(entry.seq, std::move(text));
  if (kept.size() > (told ? kMaxTold : kMaxRoutine)) kept.erase(kept.begin());
}

void RunView::preload(const scheduler::JournalEntry& entry) {
  MutexLock lock(mutex_);
  metrics_.add(entry);
  useful_before_ = metrics_.useful_seconds();
  remember(entry, scheduler::to_json(entry));
}

void RunView::measure(const scheduler::RunState& s) {
  Progress& p = progress_;
  p.phase = s.phase;
  p.step = s.counted_step;
  p.total_steps = s.total_steps;
  p.restarts = s.restarts;
  p.rollbacks = s.rollbacks;
  p.device_troubles = s.device_troubles;
  p.generation = s.generation;
  p.branch = s.branch;
  p.checkpoints = 0;
  p.newest_checkpoint = -1;
  for (const scheduler::CheckpointInfo& c : s.checkpoints) {
    if (!c.committed) continue;
    ++p.checkpoints;
    p.newest_checkpoint = std::max(p.newest_checkpoint, c.step);
  }
  p.wall_seconds = to_seconds(clock_.now() - started_);
  // After a takeover the first reports are of steps that were trained before this session began.
  p.goodput = p.wall_seconds > 0
                  ? std::min(1.0, (metrics_.useful_seconds() - useful_before_) / p.wall_seconds)
                  : 0;
  const auto& reports = metrics_.reports();
  if (reports.empty()) return;
  // After a rollback the newest reports are of steps that were left.
  const auto newest = std::find_if(reports.rbegin(), reports.rend(),
                                   [&](const StepReport& r) { return r.step <= s.counted_step; });
  if (newest != reports.rend()) {
    p.loss = newest->loss;
    p.grad_norm = newest->grad_norm;
    p.learning_rate = newest->learning_rate;
  }
  double seconds = 0;
  double tokens = 0;
  for (std::size_t i = reports.size() - std::min(reports.size(), kRateSteps); i < reports.size();
       ++i) {
    seconds += reports[i].seconds;
    tokens += static_cast<double>(reports[i].tokens);
  }
  p.tokens_per_second = seconds > 0 ? tokens / seconds : 0;
  p.tflops = p.tokens_per_second * facts_.flops_per_token * 1e-12;
  const double peak = facts_.peak.of(s.degrees.world_size());
  p.mfu = peak > 0 ? p.tflops * 1e12 / peak : 0;
  const double per_step = seconds / static_cast<double>(std::min(reports.size(), kRateSteps));
  p.eta_seconds = per_step * static_cast<double>(std::max<std::int64_t>(0, p.total_steps - p.step));
  if (reports.back().has_eval) {
    p.eval_loss = reports.back().eval_loss;
    p.has_eval = true;
  }
}

void RunView::record(const scheduler::JournalEntry& entry, const std::string& text,
                     HttpServer* http) {
  std::vector<StepReport> fresh;
  {
    MutexLock lock(mutex_);
    fresh = metrics_.add(entry);
    remember(entry, text);
    for (const scheduler::Command& c : entry.commands) {
      const auto* note = std::get_if<scheduler::Note>(&c);
      if (note != nullptr && note->severity >= scheduler::Severity::kNotice)
        notes_.push_back(note->text);
    }
  }
  if (http == nullptr) return;
  for (const StepReport& r : fresh) {
    http->publish("step", static_cast<std::uint64_t>(r.step), metrics_object(r).dump());
  }
  http->publish("journal", entry.seq, text);
}

void RunView::show(const scheduler::RunState& state, HttpServer* http) {
  {
    MutexLock lock(mutex_);
    state_ = state;
    measure(state);
  }
  if (http != nullptr) http->publish("state", state.generation, state_json());
}

void RunView::set_scores(std::map<int, scheduler::StragglerScore> scores) {
  MutexLock lock(mutex_);
  scores_ = std::move(scores);
}

scheduler::RunState RunView::state() const {
  MutexLock lock(mutex_);
  return state_;
}

Progress RunView::progress() const {
  MutexLock lock(mutex_);
  return progress_;
}

std::vector<std::string> RunView::take_notes() {
  MutexLock lock(mutex_);
  return std::exchange(notes_, {});
}

std::string RunView::state_json() const {
  MutexLock lock(mutex_);
  const scheduler::RunState& s = state_;
  const Progress& p = progress_;
  json j;
  j["run"] = {{"id", facts_.id},
              {"name", facts_.name},
              {"config_path", facts_.config_path},
              {"run_dir", facts_.run_dir},
              {"phase", phase_word(s)},
              {"started_at", format_time(started_)},
              {"finished_reason", s.finish_reason},
              {"exit_code", s.exit_code},
              {"pid", facts_.pid}};
  j["progress"] = {{"step", p.step},
                   {"total_steps", p.total_steps},
                   {"loss", number(p.loss)},
                   {"grad_norm", number(p.grad_norm)},
                   {"learning_rate", p.learning_rate},
                   {"tokens_per_second", p.tokens_per_second},
                   {"tflops", p.tflops},
                   {"mfu", p.mfu},
                   {"eta_seconds", p.eta_seconds},
                   {"goodput", p.goodput},
                   {"restarts", p.restarts},
                   {"rollbacks", p.rollbacks},
                   {"eval_loss", p.has_eval ? number(p.eval_loss) : json(nullptr)},
                   {"unigram_loss", facts_.unigram_loss},
                   {"uniform_loss", facts_.uniform_loss},
                   {"wall_seconds", to_seconds(clock_.now() - started_)}};
  j["term"] = s.term;
  j["generation"] = s.generation;
  j["branch"] = s.branch;
  const Degrees& degrees = s.degrees;
  j["world_size"] = degrees.world_size();
  j["target"] = {{"dp", s.target.dp}, {"tp", s.target.tp}, {"pp", s.target.pp}};
  j["layout"] = {{"dp", degrees.dp}, {"tp", degrees.tp}, {"pp", degrees.pp}};
  j["actors"] = actors_json(registry_.list(), s);
  j["ranks"] = ranks_json(s, scores_);
  j["spares"] = json::array();
  for (const scheduler::Seat& seat : s.seats) {
    if (is_seated(s, seat) && seat.rank < 0) j["spares"].push_back(seat_json(seat));
  }
  j["agents"] = agents_json(s);
  j["checkpoints"] = json::array();
  for (const scheduler::CheckpointInfo& c : s.checkpoints) {
    j["checkpoints"].push_back({{"id", c.id},
                                {"branch", c.branch},
                                {"step", c.step},
                                {"bytes", c.bytes},
                                {"state", checkpoint_word(c)},
                                {"seconds", c.seconds}});
  }
  j["spikes"] = json::array();
  for (const scheduler::RollbackRecord& r : s.spikes.ladder.rollbacks) {
    j["spikes"].push_back(
        {{"step", r.skip_last},
         {"onset", r.onset},
         {"verdict", "rollback"},
         {"reason", fmt::format("back to step {}; the samples of steps {} to {} are skipped",
                                r.branch_point, r.skip_first, r.skip_last)}});
  }
  j["detector"] = {{"state", scheduler::to_string(s.spikes.now.phase)},
                   {"baseline", s.spikes.now.baseline.level}};
  return j.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string RunView::metrics_json(std::int64_t since_step) const {
  MutexLock lock(mutex_);
  json rows = json::array();
  for (const StepReport& r : metrics_.reports()) {
    if (r.step > since_step) rows.push_back(metrics_row(r));
  }
  const json j = {{"columns", kMetricColumns}, {"rows", std::move(rows)}};
  return j.dump();
}

std::string RunView::journal_json(std::uint64_t since_seq) const {
  MutexLock lock(mutex_);
  std::string out = "{\"entries\":[";
  bool first = true;
  auto told = told_.upper_bound(since_seq);
  auto routine = routine_.upper_bound(since_seq);
  while (told != told_.end() || routine != routine_.end()) {
    const bool take_told =
        routine == routine_.end() || (told != told_.end() && told->first < routine->first);
    if (!first) out += ',';
    first = false;
    out += take_told ? (told++)->second : (routine++)->second;
  }
  return out + "]}";
}

std::string RunView::prometheus() const {
  MutexLock lock(mutex_);
  const Progress& p = progress_;
  std::string out;
  const auto metric = [&](std::string_view name, std::string_view type, std::string_view help,
                          double value) {
    const std::string text = std::isnan(value) ? "NaN" : fmt::format("{}", value);
    out += fmt::format("# HELP tenax_{0} {1}\n# TYPE tenax_{0} {2}\ntenax_{0}{{run=\"{3}\"}} {4}\n",
                       name, help, type, facts_.name, text);
  };
  double tokens = 0;
  for (const StepReport& r : metrics_.reports()) tokens += static_cast<double>(r.tokens);
  metric("train_step", "gauge", "Newest counted optimizer step.", static_cast<double>(p.step));
  metric("train_total_steps", "gauge", "Steps the run is to make.",
         static_cast<double>(p.total_steps));
  metric("train_loss", "gauge", "Loss of the newest step, nats.", p.loss);
  metric("train_grad_norm", "gauge", "Global gradient norm before clipping.", p.grad_norm);
  if (p.has_eval) metric("train_heldout_loss", "gauge", "Newest held-out loss, nats.", p.eval_loss);
  metric("train_learning_rate", "gauge", "Learning rate of the newest step.", p.learning_rate);
  metric("train_tokens_total", "counter", "Targets trained, left branches included.", tokens);
  metric("train_tokens_per_second", "gauge", "Over the last 20 steps.", p.tokens_per_second);
  metric("train_tflops", "gauge", "Model FLOPs, 1e12 a second, over the last 20 steps.", p.tflops);
  metric("train_mfu_ratio", "gauge", "Model FLOPs / peak of the present workers; 0: not known.",
         p.mfu);
  metric("goodput_ratio", "gauge", "Useful step time / wall time of this session.", p.goodput);
  metric("restarts_total", "counter", "Processes restarted.", p.restarts);
  metric("rollbacks_total", "counter", "Rollbacks at loss spikes.", p.rollbacks);
  metric("device_troubles_total", "counter",
         "Faults, refused allocations and bad health of GPUs that workers reported.",
         p.device_troubles);
  metric("generation", "gauge", "Membership generation.", static_cast<double>(p.generation));
  metric("checkpoints", "gauge", "Committed checkpoints kept.", p.checkpoints);
  metric("checkpoint_newest_step", "gauge", "Step of the newest committed checkpoint, -1 if none.",
         static_cast<double>(p.newest_checkpoint));
  const auto snapshot = std::find_if(metrics_.reports().rbegin(), metrics_.reports().rend(),
                                     [](const StepReport& r) { return r.snapshot_seconds > 0; });
  metric("checkpoint_stall_seconds", "gauge", "Training's wait for the newest snapshot.",
         snapshot != metrics_.reports().rend() ? snapshot->snapshot_seconds : 0);
  metric("handler_seconds_max", "gauge", "Longest message handler of the supervisor's actors.",
         to_seconds(longest_handler()));
  return out;
}

}  // namespace tenax::actors
