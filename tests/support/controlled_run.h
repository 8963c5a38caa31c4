// A run without processes: plays agents, workers and the store against RunController::decide, with
// a clock that moves only when told. Every message waits in a queue (one for each worker and each
// agent, as in the real system) until the test delivers it, so a test chooses every order and every
// place of failure. The weights are a hash chain over the sample positions trained: two ranks hold
// the same number only if they have done the same updates. A worker is named by its seat, an index
// into RunState::seats; while the layout does not change and there are no spares, that is its rank.
// Test code; one thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "scheduler/run_controller.h"
#include "tests/support/controlled_weights.h"

namespace tenax::test {

struct ControlledRunOptions {
  scheduler::ControllerOptions controller;
  std::int64_t total_steps = 20;
  std::int64_t save_interval = 5;  ///< 0: only at the end
  SkipWindow poisoned;             ///< a step that trains one of these positions has no loss
};

class ControlledRun {
 public:
  explicit ControlledRun(ControlledRunOptions options);

  // --- The controller
  std::vector<scheduler::Command> feed(const scheduler::Event& event);
  /// Feeds without acting: the supervisor dies between its decision and the deed.
  void feed_and_forget(const scheduler::Event& event);
  void pass(Duration d) { now_ += d; }
  /// Moves the clock to the controller's next deadline and delivers the timer. False without one.
  bool fire_timer();
  void start();
  /// The supervisor's process is gone: what was on its way to or from it is lost.
  void crash_supervisor();
  /// A new one reads `state` as saved and finds what the store has.
  void restart_supervisor();

  // --- One thing at a time; false if there is nothing to do
  bool deliver_from_worker(int seat);
  bool deliver_from_agent(std::uint32_t agent);
  bool deliver_to_agent(std::uint32_t agent);
  bool deliver_exit();  ///< of an agent's process, to the supervisor
  bool boot(int seat);
  bool advance(int seat);  ///< one move in its generation: restore, gradients, verdict
  bool write_slot(std::uint32_t agent, bool ok = true);
  bool store_job(bool ok = true);

  // --- Until quiet
  /// Delivers messages, boots, forms, writes, commits; trains no step.
  void settle();
  /// settle() with timers until the run trains.
  void run_until_training();
  /// Trains until every rank has applied `step`; false if it got stuck.
  bool train_to(std::int64_t step);
  /// Brings every rank to the gradients of `step`, nobody to its verdict.
  bool train_to_gradients_of(std::int64_t step);
  /// To the end of the run, timers included.
  void run_to_end(int max_moves = 100000);

  // --- Faults
  void kill_worker(int seat);
  void kill_agent(std::uint32_t agent);
  /// Its engine hangs: it neither trains nor answers an abort.
  void hang_worker(int seat);
  /// A broken connection in its generation: it stops by itself and says so.
  bool stop_on_error(int seat);
  /// A further agent dials in.
  void join_agent(std::uint32_t num_slots);
  void corrupt_checkpoint(std::uint64_t id) { store_.at(id).corrupt = true; }

  // --- What can be seen
  scheduler::RunState state;
  const scheduler::RunController& controller() const { return controller_; }
  Time now() const { return now_; }
  const std::vector<scheduler::Command>& commands() const { return commands_; }
  struct Recorded {
    scheduler::Event event;
    Time time;
    std::vector<scheduler::Command> commands;
  };
  const std::vector<Recorded>& recorded() const { return recorded_; }
  /// The newest plan.
  const Plan& plan() const { return plans_.back(); }
  std::size_t num_plans() const { return plans_.size(); }
  bool noted(const std::string& text) const;
  std::string notes() const;
  template <class T>
  std::vector<T> all() const {
    std::vector<T> found;
    for (const scheduler::Command& c : commands_) {
      if (const T* t = std::get_if<T>(&c)) found.push_back(*t);
    }
    return found;
  }
  std::vector<std::uint64_t> manifests() const;
  const scheduler::CheckpointInfo* checkpoint_of(std::int64_t step) const;
  /// What an uninterrupted run with these skip windows would hold.
  std::uint64_t expected_weights(int rank, std::int64_t step) const;
  /// Of a checkpoint, what `rank` of the present layout would read.
  std::uint64_t stored_weights(std::uint64_t checkpoint, int rank) const;
  std::optional<std::uint64_t> weights(int seat) const;
  const RankState& held(int seat) const;
  bool alive(int seat) const;
  bool worker_busy(int seat) const;
  bool agent_alive(std::uint32_t agent) const { return agents_[agent].alive; }
  std::pair<std::int64_t, std::int64_t> positions(std::int64_t step,
                                                  const std::vector<SkipWindow>& skips) const;
  /// Changes what a rank computes from now on: a faulty device.
  void make_faulty(int rank) { faulty_.insert(rank); }
  void heal(int rank) { faulty_.erase(rank); }
  /// What went against an invariant so far; empty: nothing.
  const std::string& violation() const { return violation_; }
  int world() const {
    return state.seats.empty() ? options_.controller.degrees.world_size()
                               : state.degrees.world_size();
  }
  int num_seats() const { return static_cast<int>(state.seats.size()); }
  int num_agents() const { return static_cast<int>(agents_.size()); }
  /// Agents that the run may still use.
  int num_agents_left() const {
    return static_cast<int>(
        std::count_if(state.agents.begin(), state.agents.end(), scheduler::usable));
  }

 private:
  enum class Engine { kIdle, kForming, kTraining, kWaitingForSlot };
  struct Worker {
    std::uint64_t incarnation = 0;
    std::uint32_t pid = 0;
    bool alive = false;
    bool up = false;
    bool hung = false;
    int rank = -1;
    std::uint64_t generation = 0;  ///< newest one heard of
    Engine engine = Engine::kIdle;
    std::uint64_t running = 0;   ///< generation the engine runs
    bool training_seen = false;  ///< by the agent
    RankState held;
    Shard weights;
    std::vector<StepReport> reports;
    std::map<std::int64_t, WorkerCommandKind> commands;
    std::int64_t obeyed = 0;
    bool regroup = false;
    std::int64_t saved_step = -1;
    std::optional<std::pair<std::uint64_t, std::int64_t>> in_flight;
    bool leave_after_save = false;
    std::deque<scheduler::Event> up_queue;
  };
  struct SlotJob {
    std::uint64_t generation = 0;
    int rank = 0;
    std::uint64_t branch = 0;
    std::int64_t step = 0;
    Shard weights;
  };
  struct Agent {
    std::uint64_t incarnation = 0;
    bool alive = false;
    bool dialled = false;    ///< its hello is on the way or arrived
    bool connected = false;  ///< the supervisor has welcomed it
    bool watched = false;
    std::uint64_t generation = 0;
    std::int64_t newest_report = -1;
    std::deque<scheduler::StepReported> reports;
    std::deque<scheduler::Event> up_queue;
    std::deque<std::function<void()>> down_queue;
    std::deque<SlotJob> jobs;
    std::map<std::uint32_t, std::unique_ptr<Worker>> workers;
  };
  struct Contribution {
    std::int64_t command = 0;
    bool slot_free = true;
  };
  struct Generation {
    Plan plan;
    std::vector<scheduler::StartGeneration::Seat> seats;
    std::vector<int>
        progress;  ///< by rank: -2 no plan, -1 forming, else 2 x step + gradients ready
    std::map<std::int64_t, std::map<int, Contribution>> contributions;
    std::vector<Shard> sources;  ///< weights that each rank will hold, once all have met
  };
  struct Stored {
    std::uint64_t branch = 0;
    std::int64_t step = 0;
    bool corrupt = false;
    std::map<int, std::uint64_t> layers;
  };

  Worker* worker(int seat);
  const Worker* worker(int seat) const;
  /// Null if another process has the place by now.
  Worker* worker_at(const scheduler::StartGeneration::Seat& place);
  const scheduler::Seat& place_of(int seat) const { return state.seats.at(seat); }
  Shard stored_shard(const Stored& stored, const Degrees& degrees, int rank) const;
  void act(const scheduler::Command& command);
  void send_down(std::uint32_t agent, std::function<void()> deed);
  void send_down_to_all(const std::function<void(std::uint32_t)>& deed);
  void emit(std::uint32_t agent, scheduler::Event event);
  void emit_from(Worker& w, std::uint32_t agent, scheduler::Event event);
  void hello(std::uint32_t agent);
  void spawn(std::uint32_t agent, std::uint32_t slot, std::uint64_t incarnation);
  void abort(std::uint32_t agent, const scheduler::AbortGeneration& c);
  void take_plan(std::uint32_t agent, std::uint32_t slot, std::uint64_t incarnation, int rank,
                 const Plan& plan);
  void leave(Worker& w);
  /// What it waits for: the slowest rank of its generation.
  std::vector<FlightNote> flight_of(const Worker& w) const;
  RankState report_state(const Worker& w, std::int64_t counted) const;
  bool restore(Worker& w, Generation& g, std::uint32_t agent);
  bool compute_gradients(Worker& w, Generation& g, int p);
  bool take_verdict(Worker& w, Generation& g, int p, std::uint32_t agent);
  void after_step(Worker& w, Generation& g, std::int64_t done, const Contribution& agreed,
                  std::uint32_t agent);
  bool try_snapshot(Worker& w, std::uint32_t agent);
  void finish(Worker& w, std::uint32_t agent, FinishCause cause);
  void check_plan(const scheduler::StartGeneration& start);
  void check_state();
  void violate(const std::string& what) {
    if (violation_.empty()) violation_ = what;
  }
  Shard next_weights(Shard weights, std::int64_t step, const std::vector<SkipWindow>& skips,
                     int rank) const;
  int num_layers() const { return std::max(4, options_.controller.degrees.pp); }
  bool poisoned(std::int64_t step, const std::vector<SkipWindow>& skips) const;
  StepReport make_report(const Generation& g, std::int64_t step) const;

  ControlledRunOptions options_;
  scheduler::RunController controller_;
  Time now_{std::chrono::hours(1)};
  std::uint64_t term_ = 0;
  std::uint32_t next_pid_ = 100;
  std::deque<Agent> agents_;
  std::map<std::uint64_t, Generation> generations_;
  std::map<std::uint64_t, std::map<int, SlotJob>> staged_;
  std::map<std::uint64_t, Stored> store_;
  std::deque<scheduler::Command> store_jobs_;
  std::deque<scheduler::AgentLost> exits_;
  std::set<int> faulty_;
  int num_askers_ = 0;
  std::vector<scheduler::Command> commands_;
  std::vector<Recorded> recorded_;
  std::vector<Plan> plans_;
  std::string violation_;
  bool supervisor_up_ = false;
  std::uint64_t seen_branch_ = 0;
  std::int64_t seen_step_ = 0;
};

}  // namespace tenax::test
