// A run on several hosts whose cables are cut: it ends with the weights of the undisturbed run.
// Hosts are network namespaces; skipped where there are none.
#include <gtest/gtest.h>
#include <signal.h>

#include "tests/support/network_lab.h"
#include "tests/support/run_under_test.h"

namespace tenax::testing {

namespace {

using std::chrono::milliseconds;

const Shape kTwoHosts{"2x2 on two hosts", 2, 2, 2, 2, 8};

/// The recipe of a run whose agents are on the lab's hosts.
std::vector<std::string> on_hosts(const NetworkLab& lab, int steps) {
  return {
      "network.agent_launcher=[\"ip\", \"netns\", \"exec\", \"" + lab.host_prefix() + "{agent}\"]",
      "network.control_interface=\"" + NetworkLab::hub_address() + "\"",
      "network.data_interface=\"" + NetworkLab::subnet() + "\"",
      "supervision.heartbeat_timeout=\"1500ms\"", "train.steps=" + std::to_string(steps)};
}

}  // namespace

TEST(HostsOfARun, TrainTheSameWeightsAsOneMachine) {
  NetworkLab lab(2);
  if (!lab.problem().empty()) GTEST_SKIP() << lab.problem();
  RunUnderTest run(kTwoHosts, on_hosts(lab, RunUnderTest::kSteps));
  run.start();
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), undisturbed_hash(kTwoHosts));
}

TEST(HostsOfARun, AShortCutOfACableLosesNothing) {
  NetworkLab lab(2);
  if (!lab.problem().empty()) GTEST_SKIP() << lab.problem();
  RunUnderTest run(kTwoHosts, on_hosts(lab, 60));
  run.start();
  ASSERT_TRUE(run.wait_for_step(10)) << run.output();
  lab.cut(1);
  sleep_for(milliseconds(600));
  lab.heal(1);
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), undisturbed_hash(kTwoHosts, {"train.steps=60"}));
}

TEST(HostsOfARun, ACutCableIsALostHostUntilItIsMended) {
  NetworkLab lab(2);
  if (!lab.problem().empty()) GTEST_SKIP() << lab.problem();
  RunUnderTest run(kTwoHosts, on_hosts(lab, 60));
  run.start();
  ASSERT_TRUE(run.wait_for_step(10)) << run.output();
  lab.cut(1);
  while (run.journal().find("agent 1 ") == std::string::npos ||
         run.journal().find("is lost: ") == std::string::npos) {
    ASSERT_TRUE(run.supervisor_runs()) << run.output();
    sleep_for(milliseconds(100));
  }
  lab.heal(1);
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), undisturbed_hash(kTwoHosts, {"train.steps=60"}));
}

TEST(HostsOfARun, OneOfWhichLosesPowerComesBack) {
  NetworkLab lab(2);
  if (!lab.problem().empty()) GTEST_SKIP() << lab.problem();
  RunUnderTest run(kTwoHosts, on_hosts(lab, 60));
  run.start();
  ASSERT_TRUE(run.wait_for_step(10)) << run.output();
  for (const RunProcess& p : run.processes()) {
    if (p.agent == 1) ::kill(p.pid, SIGKILL);
  }
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), undisturbed_hash(kTwoHosts, {"train.steps=60"}));
}

}  // namespace tenax::testing
