#include "scheduler/restart_strategy.h"

#include <gtest/gtest.h>

namespace tenax::scheduler {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const Time kStart{std::chrono::hours(1)};

TEST(RestartStrategy, GivesUpWhenTheIntensityIsExceededWithinThePeriod) {
  RestartStrategy s;
  s.intensity = 3;
  s.period = seconds(10);
  RestartHistory history;
  for (int i = 1; i <= 3; ++i) {
    const auto d = next_restart(s, history, kStart + seconds(i));
    EXPECT_FALSE(d.give_up);
    EXPECT_EQ(d.within_period, i);
  }
  EXPECT_TRUE(next_restart(s, history, kStart + seconds(4)).give_up);
}

TEST(RestartStrategy, ForgetsRestartsOlderThanThePeriod) {
  RestartStrategy s;
  s.intensity = 1;
  s.period = seconds(10);
  RestartHistory history;
  for (int i = 0; i < 20; ++i) {
    EXPECT_FALSE(next_restart(s, history, kStart + seconds(11 * i)).give_up);
    EXPECT_EQ(history.restarts.size(), 1u);
  }
}

TEST(RestartStrategy, TheFirstRestartIsAtOnceAndTheDelayDoublesUpToItsLimit) {
  RestartStrategy s;
  s.intensity = 1000;
  s.backoff = milliseconds(100);
  s.max_backoff = milliseconds(500);
  RestartHistory history;
  std::vector<Duration> delays;
  for (int i = 0; i < 100; ++i) delays.push_back(next_restart(s, history, kStart).delay);
  EXPECT_EQ(delays[0], Duration(0));
  EXPECT_EQ(delays[1], Duration(milliseconds(100)));
  EXPECT_EQ(delays[2], Duration(milliseconds(200)));
  EXPECT_EQ(delays[3], Duration(milliseconds(400)));
  for (std::size_t i = 4; i < delays.size(); ++i) EXPECT_EQ(delays[i], Duration(milliseconds(500)));
}

}  // namespace
}  // namespace tenax::scheduler
