// Faults of devices, data and settings in real runs: found, told apart, and undone where that is
// possible; rollbacks by hand. docs/loss-spikes.md has the whole table.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>

#include "tests/support/run_history.h"
#include "tests/support/run_under_test.h"
#include "tests/support/seeded_cases.h"

namespace tenax::testing {

namespace {

using Overrides = std::vector<std::string>;

/// The detector of a run of 60 steps: quick to learn and to decide.
Overrides short_run(const Overrides& more = {}) {
  Overrides all = {"train.steps=60",
                   "spikes.warmup_samples=10",
                   "spikes.window=10",
                   "spikes.patience=4",
                   "spikes.confirm_of=2",
                   "spikes.recovery_samples=3",
                   "spikes.cooldown_samples=5",
                   "spikes.resume_hold=2",
                   "spikes.margin_steps=4",
                   "spikes.region_steps=10",
                   "spikes.max_skipped_fraction=0.5"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

const Shape& one_worker() {
  static const Shape shape{"1x1", 1, 1, 1, 2, 8};
  return shape;
}
const Shape& two_replicas() {
  static const Shape shape{"2x1", 2, 1, 1, 2, 8};
  return shape;
}

std::int64_t suspects(const RunHistory& history, int rank) {
  std::int64_t count = 0;
  for (const nlohmann::json& entry : history.journal()) {
    for (const nlohmann::json& c : entry.at("commands"))
      count += c.at("type") == "SuspectDevice" && c.at("rank") == rank ? 1 : 0;
  }
  return count;
}

void expect_the_journal_decides_alike(const RunUnderTest& run) {
  const CommandResult check = run.tenax({"journal", run.directory().string(), "--check"});
  EXPECT_EQ(check.ended, Ended({0, 0})) << check.output;
}

/// Overwrites all training tokens.
void damage_tokens(const RunUnderTest& run, char byte) {
  const auto path = run.directory() / "data" / "train.tok";
  const auto bytes = std::filesystem::file_size(path);
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(80);
  const std::string noise(bytes - 80, byte);
  file.write(noise.data(), static_cast<std::streamsize>(noise.size()));
}

}  // namespace

TEST(TransientFault, OfAGradientIsComputedAgainAndLeavesNoTrace) {
  for (const Shape& shape : {one_worker(), two_replicas()}) {
    const int rank = shape.dp - 1;
    RunUnderTest run(shape,
                     short_run({"faults.gradient_step=30", "faults.rank=" + std::to_string(rank)}));
    run.start();
    ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
    EXPECT_EQ(run.hash(), undisturbed_hash(shape, short_run()));
    const RunHistory history(run);
    EXPECT_EQ(history.count("step 30: held and computed again with other bits"), 1);
    EXPECT_EQ(suspects(history, rank), 1);
    EXPECT_EQ(history.final_branch(), 0u);
    expect_the_journal_decides_alike(run);
  }
}

TEST(TransientFault, NaNsOfOneRankAreComputedAgainAndLeaveNoTrace) {
  const Shape& shape = shapes().front();  // rank 3: the last stage of the second replica
  RunUnderTest run(shape, short_run({"faults.nan_step=30", "faults.rank=3"}));
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), undisturbed_hash(shape, short_run()));
  const RunHistory history(run);
  EXPECT_EQ(history.count("step 30: held and computed again with other bits"), 1);
  EXPECT_EQ(suspects(history, 3), 1);
  EXPECT_TRUE(history.skipped_updates().empty());
}

TEST(WrongWeight, OfOneReplicaIsFoundByComputingTheStepsElsewhereAndUndone) {
  for (const Shape& shape : {one_worker(), two_replicas()}) {
    const int rank = shape.dp - 1;
    RunUnderTest run(shape,
                     short_run({"faults.weight_step=30", "faults.rank=" + std::to_string(rank)}));
    run.start();
    ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
    // Back to before the fault, nothing skipped: the run ends as if it had not been.
    EXPECT_EQ(run.hash(), undisturbed_hash(shape, short_run()));
    const RunHistory history(run);
    EXPECT_EQ(history.count("step 30 was computed wrongly"), 1);
    EXPECT_EQ(suspects(history, rank), 1);
    EXPECT_EQ(history.final_branch(), 1u);
    EXPECT_TRUE(history.skip_windows().empty());
    expect_each_position_once(history, 60, shape.global_batch_size, {});
    expect_checkpoints_sound_and_finite(run);
    expect_the_journal_decides_alike(run);
  }
}

TEST(WrongWeight, OfAHostExcludesItAndTheOthersEndWithTheUndisturbedWeights) {
  const Shape two = {"2x1a2", 2, 1, 2, 2, 8};
  RunUnderTest run(two, short_run({"faults.weight_step=30", "faults.rank=1"}));
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), undisturbed_hash(two, short_run()));
  const RunHistory history(run);
  EXPECT_EQ(history.count("step 30 was computed wrongly"), 1);
  EXPECT_EQ(history.count("agent 1 is excluded"), 1) << run.journal();
}

TEST(WrongWeight, TooSmallForTheLossIsFoundWhenReplicasAreCompared) {
  const Shape& shape = two_replicas();
  RunUnderTest run(shape,
                   short_run({"faults.weight_step=31", "faults.rank=1", "faults.flip_bit=20"}));
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), undisturbed_hash(shape, short_run()));
  const RunHistory history(run);
  EXPECT_GE(history.count("replicas hold different bytes after step"), 1);
  EXPECT_EQ(suspects(history, 1), 1);
}

TEST(PoisonedSamples, AreKeptAndShownAsText) {
  const Shape& shape = two_replicas();
  RunUnderTest run(shape, short_run({"faults.poison_batch=30", "faults.poison_num_batches=6"}));
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  const RunHistory history(run);
  EXPECT_EQ(history.count("no device is to blame"), 1);
  ASSERT_EQ(history.skip_windows().size(), 1u);
  const std::vector<nlohmann::json> shown = run.json_lines("spikes", {"--show", "--top", "1000"});
  ASSERT_FALSE(shown.empty());
  std::set<std::int64_t> steps;
  for (const nlohmann::json& sample : shown) {
    const std::int64_t step = sample.at("step");
    const std::int64_t position = sample.at("position");
    steps.insert(step);
    EXPECT_EQ(position / shape.global_batch_size, step - 1);
    EXPECT_FALSE(sample.at("text").get<std::string>().empty());
  }
  EXPECT_EQ(shown.size(), steps.size() * static_cast<std::size_t>(shape.global_batch_size));
  EXPECT_TRUE(steps.contains(30));
  // Their mean is the step's loss.
  double sum = 0;
  for (const nlohmann::json& sample : shown)
    sum += sample.at("step") == 30 ? sample.at("loss").get<double>() : 0;
  for (const nlohmann::json& row : run.json_lines("metrics")) {
    if (row.at("step") == 30 && row.at("branch") == 0) {
      EXPECT_NEAR(sum / shape.global_batch_size, row.at("loss").get<double>(), 1e-9);
    }
  }
  const CommandResult text = run.tenax({"spikes", run.directory().string()});
  EXPECT_NE(text.output.find("rollback 1: "), std::string::npos) << text.output;
  expect_the_journal_decides_alike(run);
}

TEST(LearningRateBug, IsNamedAndWhatCannotBeHelpedStopsTheRun) {
  RunUnderTest run(one_worker(),
                   short_run({"faults.learning_rate_step=30", "faults.learning_rate_num_steps=1000",
                              "faults.learning_rate_factor=300"}));
  run.start();
  ASSERT_EQ(run.wait(), Ended({6, 0})) << run.output();
  const RunHistory history(run);
  EXPECT_GE(history.count("the learning rate went from"), 1);
  EXPECT_GE(history.count("rollback 1: "), 1);
  expect_checkpoints_sound_and_finite(run);
}

TEST(DamagedTokens, NeverReachTheWeightsAndAreUndoneOnceTheFileIsRestored) {
  const Overrides overrides = short_run({"train.steps=80"});
  const std::string hash = undisturbed_hash(one_worker(), overrides);
  RunUnderTest run(one_worker(), overrides);
  run.start();
  ASSERT_TRUE(run.wait_for_step(12));
  const auto tokens = run.directory() / "data" / "train.tok";
  std::filesystem::copy_file(tokens, run.folder() / "saved.tok");
  damage_tokens(run, '\xff');  // 0xffff is no token
  ASSERT_EQ(run.wait(), Ended({4, 0})) << run.output();
  EXPECT_NE(run.output().find("restore the file and resume"), std::string::npos) << run.output();
  expect_checkpoints_sound_and_finite(run);
  run.resume();  // a start compares the tokens with their digest
  EXPECT_EQ(run.wait(), Ended({4, 0})) << run.output();
  std::filesystem::copy_file(run.folder() / "saved.tok", tokens,
                             std::filesystem::copy_options::overwrite_existing);
  run.resume();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash);
}

TEST(SpikesAndKills, TheSameIsDecidedWhateverIsKilledMeanwhile) {
  for_each_seed(std::chrono::seconds(6), [](const Shape& shape, Choices& choices) {
    const std::vector<Overrides> faults = {
        {"faults.poison_batch=30", "faults.poison_num_batches=6"},
        {"faults.poison_batch=30", "faults.poison_num_batches=6", "faults.poison_kind=nan"},
        {"faults.gradient_step=30"},
        {"faults.poison_batch=30", "faults.poison_num_batches=6", "optimizer.adaptive_clip=true",
         "optimizer.adaptive_clip_warmup=10"}};
    const Overrides overrides = short_run(choices.of(faults));
    const std::string hash = undisturbed_hash(shape, overrides);
    RunUnderTest run(shape, overrides);
    run.start();
    for (int i = 0; i < 2; ++i) {
      run.wait_for_step(choices.between(24, 40));
      sleep_for(choices.up_to(std::chrono::milliseconds(400)));
      if (!run.supervisor_runs()) break;
      const int whom = static_cast<int>(choices.between(0, 3));
      if (whom == 0) {
        run.kill_everything();
        run.wait();
        run.resume();
      } else if (whom == 1) {
        ::kill(run.supervisor(), SIGKILL);
        run.wait();
        run.resume();
      } else {
        const auto victims = whom == 2 ? run.agents() : run.workers();
        if (!victims.empty()) ::kill(choices.of(victims).pid, SIGKILL);
      }
    }
    ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
    EXPECT_EQ(run.hash(), hash);
  });
}

TEST(RollbackCommand, OfALiveAndOfAStoppedRunEndAlike) {
  const Shape& shape = two_replicas();
  const Overrides overrides = {"train.steps=50", "checkpoint.interval=4",
                               "checkpoint.policy=\"wait\"", "checkpoint.keep_last=20"};
  const std::vector<std::string> order = {"--to", "10", "--skip", "12:14"};
  const auto rollback = [&](RunUnderTest& run, const std::string& more = {}) {
    std::vector<std::string> arguments = {"rollback", run.directory().string()};
    arguments.insert(arguments.end(), order.begin(), order.end());
    if (!more.empty()) arguments.push_back(more);
    return run.tenax(arguments);
  };

  RunUnderTest live(shape, overrides);
  live.start();
  ASSERT_TRUE(live.wait_for_step(20));
  const CommandResult dry = rollback(live, "--dry-run");
  EXPECT_EQ(dry.ended, Ended({0, 0})) << dry.output;
  EXPECT_NE(dry.output.find("nothing was changed"), std::string::npos) << dry.output;
  EXPECT_NE(dry.output.find("the checkpoint of step 8; 2 steps are replayed"), std::string::npos)
      << dry.output;
  const CommandResult asked = rollback(live);
  EXPECT_EQ(asked.ended, Ended({0, 0})) << asked.output;
  ASSERT_EQ(live.wait(), Ended({0, 0})) << live.output();
  const RunHistory history(live);
  EXPECT_EQ(history.final_branch(), 1u);
  EXPECT_EQ(history.count("rollback 1: branch 1 leaves branch 0 after step 10"), 1);
  EXPECT_EQ(history.count("asked for by tenax rollback"), 1);
  ASSERT_EQ(history.skip_windows().size(), 1u);
  EXPECT_EQ(history.skip_windows().front(), (SkipWindow{88, 112}));
  expect_each_position_once(history, 50, shape.global_batch_size, history.skip_windows());
  expect_the_journal_decides_alike(live);

  RunUnderTest stopped(shape, overrides);
  stopped.start();
  ASSERT_TRUE(stopped.wait_for_step(18));
  stopped.tenax({"stop", stopped.directory().string()});
  ASSERT_EQ(stopped.wait(), Ended({7, 0})) << stopped.output();
  const CommandResult done = rollback(stopped);
  EXPECT_EQ(done.ended, Ended({0, 0})) << done.output;
  stopped.resume();
  ASSERT_EQ(stopped.wait(), Ended({0, 0})) << stopped.output();
  EXPECT_EQ(stopped.hash(), live.hash());

  const CommandResult refused =
      stopped.tenax({"rollback", stopped.directory().string(), "--to", "51"});
  EXPECT_EQ(refused.ended, Ended({3, 0})) << refused.output;
  EXPECT_NE(refused.output.find("is refused"), std::string::npos) << refused.output;
}

TEST(ReplayCommand, FindsTheJournalRightAndRefusesTokensThatWereChanged) {
  const Shape& shape = shapes().front();
  RunUnderTest run(shape, {"checkpoint.keep_every=5", "checkpoint.policy=\"wait\""});
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  const CommandResult same =
      run.tenax({"replay", run.directory().string(), "--from", "10", "--to", "22", "--json"});
  EXPECT_EQ(same.ended, Ended({0, 0})) << same.output;
  EXPECT_NE(same.output.find("\"compared\":12"), std::string::npos) << same.output;
  damage_tokens(run, '\1');
  const CommandResult changed =
      run.tenax({"replay", run.directory().string(), "--from", "0", "--to", "22"});
  EXPECT_EQ(changed.ended, Ended({4, 0})) << changed.output;
  EXPECT_NE(changed.output.find("damaged tokens"), std::string::npos) << changed.output;
}

TEST(ReplayCommand, ComparesWhatTensorParallelRanksComputedWithinTheSpread) {
  const Shape two = {"1x1t2", 1, 1, 1, 2, 8};
  RunUnderTest run(
      two, {"layout.tensor_parallel=2", "checkpoint.keep_every=5", "checkpoint.policy=\"wait\""});
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  const CommandResult same =
      run.tenax({"replay", run.directory().string(), "--from", "10", "--to", "22", "--json"});
  EXPECT_EQ(same.ended, Ended({0, 0})) << same.output;
  const nlohmann::json result = nlohmann::json::parse(same.output);
  EXPECT_EQ(result["compared"], 12);
  EXPECT_GT(result["spread"], 0.0);
  EXPECT_LT(result["spread"], 1e-3);
}

TEST(WrongWeight, OfATensorParallelRankIsFoundByComputingTheStepsElsewhere) {
  const Shape two = {"1x1t2", 1, 1, 1, 2, 8};
  const std::string tensor_parallel = "layout.tensor_parallel=2";
  RunUnderTest run(two, short_run({tensor_parallel, "faults.weight_step=30", "faults.rank=1"}));
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), undisturbed_hash(two, short_run({tensor_parallel})));
  const RunHistory history(run);
  EXPECT_EQ(history.count("step 30 was computed wrongly"), 1);
  EXPECT_TRUE(history.skip_windows().empty());
}

}  // namespace tenax::testing
