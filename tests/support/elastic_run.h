// Runs whose layout changes: waiting for one, and what must be true at the end.
#pragma once

#include <string>
#include <vector>

#include "tests/support/run_under_test.h"

namespace tenax::testing {

/// SIGKILL to the process of that agent.
void kill_agent(const RunUnderTest& run, int agent);

/// Waits until the run trains in the layout "dp x pp"; false if it ended before. Fails the test at
/// the deadline.
bool wait_for_layout(RunUnderTest& run, int dp, int pp);

/// The run ends well, with the weights of an undisturbed run, and leaves nothing behind.
void expect_end(RunUnderTest& run, const Shape& shape, const std::vector<std::string>& options);

}  // namespace tenax::testing
