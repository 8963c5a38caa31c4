#include "tests/support/elastic_run.h"

#include <gtest/gtest.h>
#include <signal.h>

namespace tenax::testing {

using std::chrono::seconds;

void kill_agent(const RunUnderTest& run, int agent) {
  for (const RunProcess& p : run.agents()) {
    if (p.agent == agent) ::kill(p.pid, SIGKILL);
  }
}

/// Waits for the layout "dp x pp"; false if the run ended before.
bool wait_for_layout(RunUnderTest& run, int dp, int pp) {
  const bool in_time = eventually(seconds(60), [&] {
    if (!run.supervisor_runs()) return true;
    const nlohmann::json state = run.state();
    return !state.is_null() && state["layout"]["dp"] == dp && state["layout"]["pp"] == pp &&
           state["run"]["phase"] == "running";
  });
  EXPECT_TRUE(in_time) << "no layout of dp " << dp << " x pp " << pp << "\n" << run.journal();
  return in_time && run.supervisor_runs();
}

void expect_end(RunUnderTest& run, const Shape& shape, const std::vector<std::string>& options) {
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), undisturbed_hash(shape, options));
  EXPECT_TRUE(eventually(seconds(10), [&] { return run.processes().empty(); }));
  EXPECT_TRUE(run.segments().empty());
}

}  // namespace tenax::testing
