// Which tier gives a lost agent's workers their bytes back: shared memory that outlived the agent,
// the copy on another agent, or the store; always with the undisturbed run's weights at the end.
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/support/elastic_run.h"
#include "tests/support/run_history.h"
#include "tests/support/run_under_test.h"
#include "tests/support/seeded_cases.h"

namespace tenax::testing {

namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

/// Two stages on two agents, nothing held twice: a lost agent sends everybody back to a checkpoint.
const Shape kTwoHosts{"1x2 on two agents", 1, 2, 2, 2, 8};
constexpr std::int64_t kSavedStep = 150;
const std::vector<std::string> kOneSave = {"checkpoint.interval=150", "train.steps=300"};

std::vector<std::string> with(std::vector<std::string> overrides, const std::string& one) {
  overrides.push_back(one);
  return overrides;
}

std::string log_of(const RunUnderTest& run, int agent) {
  std::ifstream in(run.directory() / "logs" / ("agent-" + std::to_string(agent) + ".log"));
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

/// Segments of an agent's own workers, as paths.
std::vector<fs::path> slots_of(const RunUnderTest& run, int agent) {
  std::vector<fs::path> slots;
  const std::string prefix = "tenax-" + run.id() + "-a" + std::to_string(agent) + "-";
  for (const std::string& name : run.segments()) {
    if (name.starts_with(prefix)) slots.push_back(fs::path("/dev/shm") / name);
  }
  return slots;
}

bool committed(RunUnderTest& run, std::int64_t step) {
  for (const auto& c : run.json_lines("checkpoint list")) {
    if (c.at("step") == step) return true;
  }
  return false;
}

/// Bytes that each tier gave to `rank` in the last generation, by the journal.
nlohmann::json tiers_of(const RunUnderTest& run, std::uint32_t rank) {
  nlohmann::json found;
  for (const auto& line : run.json_lines("journal", {"--all"})) {
    const auto& event = line.at("event");
    if (event.at("type") == "RankFormed" && event.at("rank") == rank) found = event.at("bytes");
  }
  return found;
}

}  // namespace

TEST(LostAgent, WhoseMemoryIsGoneIsRestoredFromItsBuddy) {
  const std::string hash = undisturbed_hash(kTwoHosts, kOneSave);
  RunUnderTest run(kTwoHosts, with(kOneSave, "checkpoint.buddy_copies=1"));
  run.start();
  ASSERT_TRUE(run.wait_for_step(kSavedStep));
  const std::string copied = "has a copy of slot 0, step " + std::to_string(kSavedStep);
  ASSERT_TRUE(eventually(seconds(20), [&] {
    return log_of(run, 0).find(copied) != std::string::npos && committed(run, kSavedStep);
  })) << log_of(run, 0);
  kill_agent(run, 0);
  for (const fs::path& slot : slots_of(run, 0)) fs::remove(slot);  // the host is gone
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash);
  const auto lost = tiers_of(run, 0);
  EXPECT_GT(lost.value("buddy", 0), 0) << lost << run.journal();
  EXPECT_FALSE(lost.contains("store")) << lost;
  const auto other = tiers_of(run, 1);
  EXPECT_GT(other.value("slot", 0), 0) << other;
}

TEST(LostAgent, OfAHostThatStandsIsRestoredFromItsSharedMemory) {
  const std::string hash = undisturbed_hash(kTwoHosts, kOneSave);
  RunUnderTest run(kTwoHosts, kOneSave);
  run.start();
  ASSERT_TRUE(run.wait_for_step(kSavedStep));
  ASSERT_TRUE(eventually(seconds(20), [&] { return committed(run, kSavedStep); }));
  kill_agent(run, 0);
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash);
  for (const std::uint32_t rank : {0u, 1u}) {
    const auto tiers = tiers_of(run, rank);
    EXPECT_GT(tiers.value("slot", 0), 0) << tiers << run.journal();
    EXPECT_FALSE(tiers.contains("store")) << tiers;
  }
}

TEST(LostAgent, WhoseSharedMemoryIsDamagedIsRestoredFromTheStoreAndTheJournalSaysWhy) {
  const std::string hash = undisturbed_hash(kTwoHosts, kOneSave);
  RunUnderTest run(kTwoHosts, kOneSave);
  run.start();
  ASSERT_TRUE(run.wait_for_step(kSavedStep));
  ASSERT_TRUE(eventually(seconds(20), [&] { return committed(run, kSavedStep); }));
  kill_agent(run, 0);
  for (const fs::path& slot : slots_of(run, 0)) {
    std::fstream file(slot, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(8192);
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(8192);
    file.put(byte);
  }
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash);
  const auto lost = tiers_of(run, 0);
  EXPECT_GT(lost.value("store", 0), 0) << lost << run.journal();
  EXPECT_GE(RunHistory(run).count("rank 0 did not use its slot in shared memory"), 1);
}

TEST(KilledRun, WithBuddyCopiesEndsWithTheUndisturbedWeightsWhateverDies) {
  for_each_seed(seconds(3), [](const Shape&, Choices& choices) {
    const std::string hash = undisturbed_hash(kTwoHosts);
    RunUnderTest run(kTwoHosts, {"checkpoint.buddy_copies=1"});
    run.start();
    run.wait_for_step(choices.between(1, RunUnderTest::kSteps - 5));
    sleep_for(choices.up_to(Milliseconds(30)));
    const bool agent = choices.between(0, 1) == 0;
    if (const auto victims = agent ? run.agents() : run.workers(); !victims.empty()) {
      const RunProcess victim = choices.of(victims);
      ::kill(victim.pid, SIGKILL);
      if (agent && choices.between(0, 1) == 0) {
        for (const fs::path& slot : slots_of(run, victim.agent)) fs::remove(slot);
      }
    }
    EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
    EXPECT_EQ(run.hash(), hash);
  });
}

}  // namespace tenax::testing
