#include "tools/stale_segments.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "checkpoint/run_presence.h"
#include "checkpoint/slot.h"

namespace tenax::tools {
namespace {

TEST(StaleSegments, OfARunWithALivingProcessAreKeptWhenAllItsWorkersAreDead) {
  const std::string run = "stale-segments-" + std::to_string(getpid());
  const auto count = [&] { return checkpoint::list_segments(run).size(); };
  auto announced = checkpoint::RunPresence::announce(run);
  ASSERT_TRUE(announced) << announced.error().message;
  std::optional<checkpoint::RunPresence> presence(*std::move(announced));
  {
    const auto slots = checkpoint::SlotPair::open(checkpoint::slot_prefix(run, "a0", 0), 4096);
    ASSERT_TRUE(slots) << slots.error().message;
  }
  ASSERT_EQ(count(), 3u) << "two slots and the presence";
  sweep_stale_segments("");
  EXPECT_EQ(count(), 3u);
  presence.reset();
  EXPECT_GE(sweep_stale_segments(""), 3);
  EXPECT_EQ(count(), 0u);
}

}  // namespace
}  // namespace tenax::tools
