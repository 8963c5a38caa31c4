// What the outside may see of a running supervisor: the dashboard's JSON, Prometheus text, and the
// numbers of the terminal's progress line. The supervisor writes, HTTP threads and the main thread
// read. Thread safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "actors/http_server.h"
#include "actors/proxies.h"
#include "common/annotations.h"
#include "common/clock.h"
#include "compute/flops.h"
#include "scheduler/run_metrics.h"
#include "scheduler/run_state.h"
#include "scheduler/straggler.h"

namespace tenax::actors {

/// Facts of the run that never change while it lives.
struct RunFacts {
  std::string id;
  std::string name;
  std::string config_path;
  std::string run_dir;
  double unigram_loss = 0;
  double uniform_loss = 0;
  double flops_per_token = 0;  ///< 0: unknown
  compute::PeakFlops peak;     ///< of the workers
  int pid = 0;
};

struct Progress {
  scheduler::Phase phase = scheduler::Phase::kGathering;
  std::int64_t step = 0;
  std::int64_t total_steps = 0;
  double loss = 0;
  double grad_norm = 0;
  double learning_rate = 0;
  double eval_loss = 0;
  bool has_eval = false;
  double tokens_per_second = 0;
  double tflops = 0;  ///< model FLOPs, in 1e12 a second; 0: unknown
  double mfu = 0;     ///< of the peak; 0: unknown
  double eta_seconds = 0;
  double goodput = 0;  ///< useful step time / wall time of this session
  double wall_seconds = 0;
  int restarts = 0;
  int rollbacks = 0;
  int device_troubles = 0;
  int checkpoints = 0;                  ///< committed and kept
  std::int64_t newest_checkpoint = -1;  ///< step
  std::uint64_t generation = 0;
  std::uint64_t branch = 0;
};

class RunView {
 public:
  RunView(RunFacts facts, const Clock& clock, const ActorRegistry& registry);

  /// Journal entries of earlier sessions, for the charts.
  void preload(const scheduler::JournalEntry& entry);
  /// Takes in an entry, given also as its JSON text, and publishes it to `http` if there is one.
  void record(const scheduler::JournalEntry& entry, const std::string& text, HttpServer* http);
  /// Shows the state from now on. Costs a copy and a rendering of it, so not for every step.
  void show(const scheduler::RunState& state, HttpServer* http);

  Progress progress() const;
  /// How the ranks of the present generation keep pace, for the next state_json().
  void set_scores(std::map<int, scheduler::StragglerScore> scores);
  /// As it was shown last.
  scheduler::RunState state() const;
  /// Lines for the terminal since the last call: notices and worse.
  std::vector<std::string> take_notes();

  std::string state_json() const;
  std::string metrics_json(std::int64_t since_step) const;
  std::string journal_json(std::uint64_t since_seq) const;
  std::string prometheus() const;

 private:
  void remember(const scheduler::JournalEntry& entry, std::string text) TENAX_REQUIRES(mutex_);
  void measure(const scheduler::RunState& state) TENAX_REQUIRES(mutex_);

  const RunFacts facts_;
  const Clock& clock_;
  const ActorRegistry& registry_;
  const Time started_;
  mutable Mutex mutex_;
  scheduler::RunState state_ TENAX_GUARDED_BY(mutex_);
  std::map<int, scheduler::StragglerScore> scores_ TENAX_GUARDED_BY(mutex_);
  scheduler::RunMetrics metrics_ TENAX_GUARDED_BY(mutex_);
  double useful_before_ TENAX_GUARDED_BY(mutex_) = 0;  ///< of earlier sessions
  Progress progress_ TENAX_GUARDED_BY(mutex_);
  /// Journal entries as JSON, by seq: what is worth telling is kept longer than what is routine.
  std::map<std::uint64_t, std::string> told_ TENAX_GUARDED_BY(mutex_);
  std::map<std::uint64_t, std::string> routine_ TENAX_GUARDED_BY(mutex_);
  std::vector<std::string> notes_ TENAX_GUARDED_BY(mutex_);
};

}  // namespace tenax::actors
