#include "actors/handler_watch.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace tenax::actors {
namespace {

TEST(HandlerWatch, NotesTheLongestCallAndPassesArgumentsAndResultOn) {
  const auto doubled = timed([](int value) { return 2 * value; });
  EXPECT_EQ(doubled(21), 42);
  const auto sleeps =
      timed([](const std::chrono::milliseconds& d) { std::this_thread::sleep_for(d); });
  sleeps(std::chrono::milliseconds(30));
  const Duration longest = longest_handler();
  EXPECT_GE(longest, std::chrono::milliseconds(30));
  static_cast<void>(doubled(1));
  EXPECT_EQ(longest_handler(), longest);
}

}  // namespace
}  // namespace tenax::actors
