// Serves the dashboard with a made-up run, to look at and work on the page without training
// anything:
//   tenax_dashboard_demo [port [steps already done [milliseconds a step [total steps]]]]
// The run has everything the page must show: a NaN, a spike with a rollback, killed workers,
// checkpoints, evaluations. Ends after the last step when standard input is closed, or with Ctrl-C.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <limits>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "actors/http_server.h"

namespace {

using nlohmann::json;
using namespace std::chrono_literals;

/// JSON numbers cannot be NaN or infinite; those are texts.
json number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

constexpr int kNanStep = 90;
constexpr int kSpikeStep = 150;
constexpr int kRollbackStep = 158;
constexpr int kBranchPoint = 140;
constexpr int kWorkerDeaths[] = {60, 205};

/// A pretended run. Guarded by its own mutex; the server's threads read it while main() advances
/// it.
class FakeRun {
 public:
  explicit FakeRun(int total_steps) : total_steps_(total_steps) {
    note("run_started", "notice",
         fmt::format("run quickstart started: {} steps, dp 2 x pp 2", total_steps));
    note("generation_formed", "info", "generation 1 formed with 4 ranks");
    checkpoints_.push_back(checkpoint(0));
  }

  struct Published {
    std::string event;
    std::uint64_t id;
    json data;
  };

  /// One step further; returns what a supervisor would publish, but for the state.
  std::vector<Published> advance() {
    std::lock_guard lock(mutex_);
    published_.clear();
    ++step_;
    const bool is_first_pass = branch_ == 0;
    double loss = 1.9 + 3.7 * std::exp(-step_ / 70.0) + noise_(random_) * 0.07;
    double norm = 0.8 + 2.5 * std::exp(-step_ / 40.0) + std::abs(noise_(random_)) * 0.3;
    std::string update = "applied";
    if (is_first_pass && step_ == kNanStep) {
      loss = std::numeric_limits<double>::quiet_NaN();
      norm = std::numeric_limits<double>::infinity();
      update = "skipped";
      note("update_skipped", "warning", "step 90: loss is NaN; the weights did not change");
    }
    if (is_first_pass && step_ >= kSpikeStep && step_ <= kRollbackStep) {
      loss += (step_ - kSpikeStep + 1) * 0.45;
      norm *= 9 + (step_ - kSpikeStep) * 4;
    }
    for (const int death : kWorkerDeaths) {
      if (step_ != death) continue;
      ++generation_;
      ++restarts_;
      incarnations_[1]++;
      note("worker_exited", "warning",
           fmt::format("rank 1 (pid {}) was killed by signal 9", 4200 + death));
      note("generation_formed", "notice",
           fmt::format("generation {} formed with 4 ranks, going on from step {}", generation_,
                       step_));
    }
    loss_ = loss;
    norm_ = norm;
    json row = {{"branch", branch_},
                {"step", step_},
                {"loss", number(loss)},
                {"grad_norm", number(norm)},
                {"learning_rate", 3e-4 * std::min(1.0, step_ / 20.0)},
                {"tokens_per_second", 41000 + noise_(random_) * 800},
                {"eval_loss", nullptr},
                {"update", update}};
    if (step_ % 25 == 0) {
      eval_loss_ = 1.95 + 3.7 * std::exp(-step_ / 70.0);
      row["eval_loss"] = eval_loss_;
    }
    rows_.push_back(row);
    published_.push_back({"step", static_cast<std::uint64_t>(step_), row});
    if (step_ % 20 == 0) {
      if (checkpoints_.size() > 1) checkpoints_.back()["state"] = "verified";
      if (checkpoints_.size() > 4) checkpoints_[checkpoints_.size() - 4]["state"] = "deleted";
      checkpoints_.push_back(checkpoint(step_));
      if (checkpoints_.size() > 10) checkpoints_.erase(checkpoints_.begin());
      note("checkpoint_committed", "info", fmt::format("checkpoint of step {} committed", step_));
    }
    if (is_first_pass && step_ == kRollbackStep) roll_back();
    if (step_ == total_steps_) note("run_finished", "notice", "all steps done");
    return std::exchange(published_, {});
  }

  bool finished() const {
    std::lock_guard lock(mutex_);
    return step_ >= total_steps_;
  }

  std::string state_json() const {
    std::lock_guard lock(mutex_);
    return state().dump();
  }

  std::string metrics_json(std::int64_t since) const {
    std::lock_guard lock(mutex_);
    const std::vector<std::string> columns = {"branch",    "step",          "loss",
                                              "grad_norm", "learning_rate", "tokens_per_second",
                                              "eval_loss", "update"};
    json rows = json::array();
    for (const json& row : rows_) {
      if (row["step"] <= since) continue;
      json values = json::array();
      for (const std::string& column : columns) values.push_back(row[column]);
      rows.push_back(std::move(values));
    }
    return json{{"columns", columns}, {"rows", rows}}.dump();
  }

  std::string journal_json(std::uint64_t since) const {
    std::lock_guard lock(mutex_);
    json entries = json::array();
    for (const json& entry : journal_) {
      if (entry["seq"] > since) entries.push_back(entry);
    }
    return json{{"entries", entries}}.dump();
  }

  tenax::Status stop(const std::string& kind) {
    std::lock_guard lock(mutex_);
    note("stop_requested", "notice", "stop requested over HTTP: " + kind);
    total_steps_ = step_;
    return {};
  }

 private:
  void note(const std::string& kind, const std::string& severity, const std::string& text) {
    json entry = {{"seq", journal_.size() + 1},
                  {"time", now_seconds()},
                  {"term", 1},
                  {"generation", generation_},
                  {"kind", kind},
                  {"severity", severity},
                  {"text", text},
                  {"event", {{"type", kind}, {"step", step_}}},
                  {"commands", json::array()}};
    journal_.push_back(entry);
    published_.push_back({"journal", journal_.size(), std::move(entry)});
  }

  json checkpoint(int step) const {
    return {{"id", step + 1000 * branch_}, {"branch", branch_},    {"step", step},
            {"bytes", 13'500'000 + step},  {"state", "committed"}, {"seconds", 0.21}};
  }

  void roll_back() {
    spikes_.push_back({{"step", kRollbackStep},
                       {"onset", kSpikeStep},
                       {"verdict", "rollback"},
                       {"reason", "loss 6.1 is 9.4 robust deviations above 2.3 for 8 steps"}});
    note("spike", "error",
         "loss spike since step 150: rolling back to step 140 and skipping 32 samples");
    ++branch_;
    ++generation_;
    ++rollbacks_;
    step_ = kBranchPoint;
    note("rollback", "warning", fmt::format("branch {} begins after step {}", branch_, step_));
  }

  json actor(const std::string& id, const std::string& parent, const std::string& kind,
             const std::string& name, int pid, int restarts = 0,
             const std::string& detail = "") const {
    return {{"id", id},
            {"parent", parent.empty() ? json() : json(parent)},
            {"kind", kind},
            {"name", name},
            {"state", "up"},
            {"detail", detail},
            {"pid", pid},
            {"since", started_at_},
            {"restarts", restarts}};
  }

  json state() const {
    const double seconds = now_seconds() - started_at_;
    const bool is_over = step_ >= total_steps_;
    json actors = {actor("sup", "", "supervisor", "supervisor", 4101),
                   actor("store", "sup", "store", "checkpoint store", 4101),
                   actor("http", "sup", "http", "dashboard", 4101, 0, "127.0.0.1"),
                   actor("controller", "sup", "controller", "run controller", 4101),
                   actor("agents", "sup", "agent_proxy", "agent host-0 (proxy)", 4101),
                   actor("agent", "agents", "agent", "agent host-0", 4102),
                   actor("writer", "agent", "slot_writer", "slot writer", 4102)};
    json ranks = json::array();
    for (int rank = 0; rank < 4; ++rank) {
      const int pid = 4103 + rank + 100 * (incarnations_[rank] - 1);
      actors.push_back(actor(fmt::format("w{}", rank), "agent", "worker",
                             fmt::format("worker {}", rank), pid, incarnations_[rank] - 1,
                             fmt::format("stage {}, replica {}", rank / 2, rank % 2)));
      if (rank == 1 && step_ >= kWorkerDeaths[0] && step_ < kWorkerDeaths[0] + 6) {
        actors.back()["state"] = "restarting";
      }
      ranks.push_back({{"rank", rank},
                       {"agent", "host-0"},
                       {"slot", rank},
                       {"pid", pid},
                       {"incarnation", incarnations_[rank]},
                       {"state", actors.back()["state"]},
                       {"stage", rank / 2},
                       {"dp_rank", rank % 2},
                       {"last_step", step_}});
    }
    return {{"run",
             {{"id", "20261123-1"},
              {"name", "quickstart"},
              {"config_path", "configs/quickstart.toml"},
              {"run_dir", "runs/quickstart"},
              {"phase", is_over ? "finished" : "running"},
              {"started_at", started_at_},
              {"finished_reason", is_over ? "all steps done" : ""},
              {"exit_code", is_over ? json(0) : json()},
              {"pid", 4101}}},
            {"progress",
             {{"step", step_},
              {"total_steps", total_steps_},
              {"loss", number(loss_)},
              {"grad_norm", number(norm_)},
              {"learning_rate", 3e-4},
              {"tokens_per_second", 41234.5},
              {"eta_seconds", (total_steps_ - step_) * 0.3},
              {"goodput", 0.973},
              {"restarts", restarts_},
              {"rollbacks", rollbacks_},
              {"eval_loss", eval_loss_ > 0 ? json(eval_loss_) : json()},
              {"unigram_loss", 3.31},
              {"uniform_loss", 5.545},
              {"wall_seconds", seconds}}},
            {"term", 1},
            {"generation", generation_},
            {"branch", branch_},
            {"world_size", 4},
            {"layout", {{"dp", 2}, {"tp", 1}, {"pp", 2}}},
            {"actors", actors},
            {"ranks", ranks},
            {"checkpoints", checkpoints_},
            {"spikes", spikes_},
            {"detector", {{"state", "ok"}, {"baseline", 2.31}}}};
  }

  mutable std::mutex mutex_;
  const double started_at_ = now_seconds();
  int total_steps_;
  int step_ = 0;
  int branch_ = 0;
  int generation_ = 1;
  int restarts_ = 0;
  int rollbacks_ = 0;
  int incarnations_[4] = {1, 1, 1, 1};
  double loss_ = 5.6;
  double norm_ = 3;
  double eval_loss_ = 0;
  std::vector<json> rows_, journal_, checkpoints_, spikes_;
  std::vector<Published> published_;
  std::mt19937 random_{7};
  std::normal_distribution<double> noise_;
};

int argument(int argc, char** argv, int index, int otherwise) {
  return argc > index ? std::atoi(argv[index]) : otherwise;
}

}  // namespace

int main(int argc, char** argv) {
  FakeRun run(argument(argc, argv, 4, 400));
  for (int i = argument(argc, argv, 2, 120); i > 0 && !run.finished(); --i) run.advance();
  auto server = tenax::actors::HttpServer::start(
      {.port = argument(argc, argv, 1, 0), .control_token = "demo"},
      {.state_json = [&] { return run.state_json(); },
       .metrics_json = [&](std::int64_t since) { return run.metrics_json(since); },
       .journal_json = [&](std::uint64_t since) { return run.journal_json(since); },
       .prometheus = [] { return std::string("# a demonstration has no metrics\n"); },
       .stop = [&](std::string kind) { return run.stop(kind); }});
  if (!server) {
    fmt::print(stderr, "{}\n", server.error().message);
    return 1;
  }
  fmt::print("{}\n", (*server)->url());
  std::fflush(stdout);
  const auto pause = std::chrono::milliseconds(argument(argc, argv, 3, 200));
  while (!run.finished()) {
    for (const auto& [event, id, data] : run.advance()) (*server)->publish(event, id, data.dump());
    (*server)->publish("state", 0, run.state_json());
    std::this_thread::sleep_for(pause);
  }
  for (char byte = 0; read(STDIN_FILENO, &byte, 1) > 0;) {
  }
}
