#include "scheduler/spike_options.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <string_view>
#include <type_traits>

namespace tenax::scheduler {
namespace {

TEST(SpikeOptions, DefaultsAreValid) { EXPECT_TRUE(validate({}).has_value()); }

TEST(SpikeOptions, AllThatIsWrongIsToldAtOnce) {
  SpikeOptions options;
  options.window = 2;
  options.patience = 65;
  options.soften_lr_factor = 0;
  const Status status = validate(options);
  ASSERT_FALSE(status.has_value());
  EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
  for (const std::string_view name : {"window", "patience", "soften_lr_factor"})
    EXPECT_NE(status.error().message.find(name), std::string::npos) << status.error().message;
}

TEST(SpikeOptions, EveryMemberIsVisitedOnce) {
  SpikeOptions options;
  std::set<std::string> names;
  std::set<const void*> members;
  std::size_t bytes = 0;
  for_each_spike_option(options, [&](std::string_view name, auto& member) {
    names.emplace(name);
    members.insert(&member);
    bytes += sizeof(member);
  });
  EXPECT_EQ(names.size(), members.size());
  // All members but padding: two bools may waste up to seven bytes each.
  EXPECT_LE(bytes, sizeof(SpikeOptions));
  EXPECT_GE(bytes + 48, sizeof(SpikeOptions));
}

}  // namespace
}  // namespace tenax::scheduler
