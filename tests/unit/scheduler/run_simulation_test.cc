// Property test: whole runs under random faults, in random orders of messages, with supervisors
// that die between decision and deed. What must hold whatever happens: steps are counted once and
// in order, every source of a plan exists, a committed checkpoint has all ranks, and the run ends
// with the weights of a run without faults (T1, T3, C1, G1, G2).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "scheduler/exit_code.h"
#include "scheduler/run_json.h"
#include "tests/support/controlled_run.h"

namespace tenax::scheduler {
namespace {

using test::ControlledRun;

struct Faults {
  double per_move = 0.02;
  int moves = 1500;  ///< after so many, nothing more goes wrong
};

class Simulation {
 public:
  explicit Simulation(std::uint64_t seed) : rng_(seed), run_(options(rng_)) {}

  /// Empty: all well; else what was violated.
  std::string play(const Faults& faults) {
    run_.start();
    for (int move = 0; move < 60000; ++move) {
      const bool quiet = move >= faults.moves;
      if (!quiet && chance(faults.per_move)) break_something();
      if (supervisor_down_ && (quiet || chance(0.1))) {
        supervisor_down_ = false;
        run_.restart_supervisor();
      }
      one_move(quiet);
      if (!run_.violation().empty()) return fmt::format("move {}: {}", move, run_.violation());
      if (!supervisor_down_ && run_.state.phase == Phase::kFinished) {
        if (run_.state.exit_code != kExitStopped && run_.state.exit_code != kExitRequeue)
          return at_the_end();
        run_.crash_supervisor();  // and somebody says `tenax train --resume`
        run_.restart_supervisor();
      }
    }
    return fmt::format("the run does not end: phase {}, step {}, {}", to_string(run_.state.phase),
                       run_.state.counted_step, run_.state.culprit);
  }
  const ControlledRun& run() const { return run_; }

 private:
  static test::ControlledRunOptions options(std::mt19937_64& rng) {
    test::ControlledRunOptions o;
    o.controller.degrees.dp = 1 + static_cast<int>(rng() % 3);
    o.controller.degrees.pp = 1 + static_cast<int>(rng() % 2);
    o.controller.num_agents =
        1 + static_cast<int>(rng() % std::min(3, o.controller.degrees.world_size()));
    o.controller.spares = rng() % 4 == 0 ? 1 : 0;
    // Every second run is one whose agents are soon excluded, and come back later.
    const bool fragile = rng() % 2 == 0;
    o.controller.limits.max_data_parallel = 4;
    o.controller.limits.max_stages = 4;
    o.controller.exclusion_period = std::chrono::seconds(30);
    o.controller.global_batch_size = 4;
    o.controller.keep_last = 1 + static_cast<int>(rng() % 3);
    o.controller.verify_patience = 3;
    o.controller.worker_restarts.intensity = fragile ? 2 : 1000;
    o.controller.agent_restarts.intensity = fragile ? 0 : 1000;
    o.controller.worker_restarts.backoff = std::chrono::milliseconds(rng() % 2 * 50);
    o.controller.max_generations_without_progress = 1000;
    o.controller.max_save_failures = 1000;
    o.controller.spikes.spikes.margin_steps = 2;
    o.controller.spikes.spikes.max_skipped_fraction = 1;
    o.total_steps = 12 + static_cast<std::int64_t>(rng() % 12);
    o.save_interval = static_cast<std::int64_t>(rng() % 6);
    if (rng() % 3 == 0) {
      const std::int64_t at = static_cast<std::int64_t>(rng() % 50);
      o.poisoned = {at, at + 12};
    }
    return o;
  }

  bool chance(double p) { return std::uniform_real_distribution<>(0, 1)(rng_) < p; }
  int below(int n) { return static_cast<int>(rng_() % static_cast<std::uint64_t>(n)); }

  void break_something() {
    switch (below(15)) {
      case 0:
      case 1:
      case 2:
        run_.kill_worker(below(run_.num_seats()));
        break;
      case 3:
        run_.kill_agent(static_cast<std::uint32_t>(below(run_.num_agents())));
        break;
      case 4:
        if (!supervisor_down_) repeat_an_old_event();
        break;
      case 5:
        run_.stop_on_error(below(run_.num_seats()));
        break;
      case 6:
        run_.hang_worker(below(run_.num_seats()));
        break;
      case 7:
        if (!supervisor_down_) run_.store_job(false);
        break;
      case 8:
        run_.write_slot(static_cast<std::uint32_t>(below(run_.num_agents())), false);
        break;
      case 9:
        if (!supervisor_down_ && chance(0.2))
          run_.feed(StopRequested{chance(0.5) ? StopKind::kGraceful : StopKind::kPreempt, "test"});
        break;
      case 10:
        if (!supervisor_down_) {
          if (chance(0.5) && run_.controller().next_deadline(run_.state))
            run_.feed_and_forget(TimerFired{});
          run_.crash_supervisor();
          supervisor_down_ = true;
        }
        break;
      case 12:
        if (!supervisor_down_)
          run_.feed(DrainRequested{static_cast<std::uint32_t>(below(run_.num_agents())), "test"});
        break;
      case 13:
        if (!supervisor_down_ && run_.num_agents() < 6)
          run_.join_agent(static_cast<std::uint32_t>(1 + below(2)));
        break;
      case 14:
        if (!supervisor_down_ && chance(0.5))
          run_.feed(ScaleRequested{{1 + below(4), 1, 1 + below(3)}, "test"});
        break;
      case 11:
        if (const auto ids = run_.manifests(); !ids.empty())
          run_.corrupt_checkpoint(
              ids[static_cast<std::size_t>(below(static_cast<int>(ids.size())))]);
        break;
    }
  }

  /// A duplicate, or a message of an older generation that was long on its way.
  void repeat_an_old_event() {
    const auto& all = run_.recorded();
    if (all.empty()) return;
    const Event event = all[static_cast<std::size_t>(below(static_cast<int>(all.size())))].event;
    const bool from_a_worker =
        std::holds_alternative<WorkerUp>(event) || std::holds_alternative<RankFormed>(event) ||
        std::holds_alternative<RankStopped>(event) || std::holds_alternative<RankFinished>(event) ||
        std::holds_alternative<StepReported>(event) || std::holds_alternative<ShardFailed>(event);
    if (!from_a_worker || is_current(event)) return;
    const std::string before = to_json(run_.state);
    const auto commands = run_.feed(event);
    if (!commands.empty() || to_json(run_.state) != before) changed_by_stale_ = true;
    EXPECT_FALSE(changed_by_stale_)
        << name_of(event) << " of an older generation changed the state";
  }
  bool is_current(const Event& event) const {
    return std::visit(
        [&](const auto& e) {
          if constexpr (requires { e.generation; }) return e.generation == run_.state.generation;
          return std::holds_alternative<WorkerUp>(event) &&
                 std::get<WorkerUp>(event).incarnation == run_.state.seats.at(0).incarnation;
        },
        event);
  }

  void one_move(bool quiet) {
    for (int tries = 0; tries < 30; ++tries) {
      const int rank = below(run_.num_seats());
      const auto agent = static_cast<std::uint32_t>(below(run_.num_agents()));
      bool moved = false;
      switch (below(8)) {
        case 0:
          moved = run_.deliver_from_worker(rank);
          break;
        case 1:
          moved = run_.deliver_from_agent(agent);
          break;
        case 2:
          moved = run_.deliver_to_agent(agent);
          break;
        case 3:
          moved = run_.deliver_exit() || run_.boot(rank);
          break;
        case 4:
          moved = run_.advance(rank);
          break;
        case 5:
          moved = run_.write_slot(agent);
          break;
        case 6:
          moved = run_.store_job();
          break;
        case 7:
          if (!quiet && !supervisor_down_ && chance(0.02)) moved = run_.fire_timer();
          break;
      }
      if (moved) return;
    }
    // Nothing could be found to do by chance: look everywhere, then let time pass.
    for (int rank = 0; rank < run_.num_seats(); ++rank) {
      if (run_.boot(rank) || run_.deliver_from_worker(rank) || run_.advance(rank)) return;
    }
    for (int a = 0; a < run_.num_agents(); ++a) {
      const auto agent = static_cast<std::uint32_t>(a);
      if (run_.deliver_from_agent(agent) || run_.deliver_to_agent(agent) || run_.write_slot(agent))
        return;
    }
    if (run_.deliver_exit() || run_.store_job() || supervisor_down_) return;
    run_.fire_timer();
  }

  std::string at_the_end() {
    const RunState& s = run_.state;
    if (s.exit_code == kExitDiverged && s.rollbacks > 0) return "";  // the rollback budget
    if (s.exit_code == kExitGaveUp && run_.num_agents_left() == 0) return "";
    if (s.exit_code != kExitDone)
      return fmt::format("exit code {}: {}", s.exit_code, s.finish_reason);
    if (s.counted_step != s.total_steps)
      return fmt::format("done after {} of {} steps", s.counted_step, s.total_steps);
    const CheckpointInfo* last = newest_checkpoint(s, s.total_steps);
    if (last == nullptr || last->step != s.total_steps) return "no checkpoint of the last step";
    for (int rank = 0; rank < run_.world(); ++rank) {
      if (run_.stored_weights(last->id, rank) != run_.expected_weights(rank, s.total_steps))
        return fmt::format("rank {} ends with other weights than without faults", rank);
    }
    return "";
  }

  std::mt19937_64 rng_;
  ControlledRun run_;
  bool supervisor_down_ = false;
  bool changed_by_stale_ = false;
};

std::uint64_t first_seed() {
  const char* text = std::getenv("TENAX_TEST_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 1;
}

std::uint64_t num_seeds() {
  if (std::getenv("TENAX_TEST_SEED") != nullptr) return 1;
  return std::getenv("TENAX_TEST_FULL") != nullptr ? 50000 : 1000;
}

TEST(RunSimulation, EveryRunEndsWithTheWeightsOfARunWithoutFaults) {
  for (std::uint64_t seed = first_seed(); seed < first_seed() + num_seeds(); ++seed) {
    Simulation simulation(seed);
    const std::string problem = simulation.play({});
    ASSERT_EQ(problem, "") << "replay: TENAX_TEST_SEED=" << seed
                           << " tenax_scheduler_test --gtest_filter=RunSimulation.*\n"
                           << (num_seeds() == 1 ? simulation.run().notes() : "");
  }
}

TEST(RunSimulation, RecordedEventsLeadAFreshStateToTheSameCommands) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    Simulation simulation(seed);
    static_cast<void>(simulation.play({.per_move = 0.03, .moves = 500}));
    RunState fresh;
    std::uint64_t seq = 0;
    for (const auto& r : simulation.run().recorded()) {
      ++seq;
      const auto commands = simulation.run().controller().decide(fresh, r.event, r.time);
      ASSERT_EQ(to_json(JournalEntry{seq, r.time, 0, 0, r.event, commands}),
                to_json(JournalEntry{seq, r.time, 0, 0, r.event, r.commands}))
          << "seed " << seed;
    }
    ASSERT_EQ(to_json(fresh), to_json(simulation.run().state)) << "seed " << seed;
  }
}

}  // namespace
}  // namespace tenax::scheduler
