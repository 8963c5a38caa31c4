#include "scheduler/section_watch.h"

#include <gtest/gtest.h>

namespace tenax::scheduler {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(SectionWatch, HasAFixedLimitUntilTheTimesAreKnown) {
  SectionWatchState state;
  for (int i = 0; i < 7; ++i) observe(state, Section::kStep, 0.01);
  EXPECT_EQ(section_limit(state, {}, Section::kStep, seconds(30)).limit, Duration(seconds(30)));
  observe(state, Section::kStep, 0.01);
  EXPECT_EQ(section_limit(state, {}, Section::kStep, seconds(30)).limit,
            Duration(milliseconds(550)));
}

TEST(SectionWatch, LeavesARunWithLongStepsAlone) {
  SectionWatchState state;
  for (int i = 0; i < 8; ++i) observe(state, Section::kStep, 90);
  EXPECT_EQ(section_limit(state, {}, Section::kStep, seconds(30)).limit,
            Duration(milliseconds(450500)));
}

TEST(SectionWatch, ForgetsWhatIsLongAgo) {
  SectionWatchState state;
  observe(state, Section::kStep, 100);
  for (int i = 0; i < 16; ++i) observe(state, Section::kStep, 1);
  EXPECT_EQ(section_limit(state, {}, Section::kStep, seconds(30)).limit,
            Duration(milliseconds(5500)));
}

TEST(SectionWatch, ARareSectionIsKnownAfterOnce) {
  SectionWatchState state;
  EXPECT_EQ(section_limit(state, {}, Section::kEvalStep, seconds(30)).limit, Duration(seconds(30)));
  observe(state, Section::kEvalStep, 2);
  EXPECT_EQ(section_limit(state, {}, Section::kEvalStep, seconds(30)).limit,
            Duration(milliseconds(10500)));
}

TEST(SectionWatch, CanBeSwitchedOff) {
  SectionWatchState state;
  for (int i = 0; i < 9; ++i) observe(state, Section::kStep, 1);
  EXPECT_EQ(section_limit(state, {.factor = 0}, Section::kStep, seconds(30)).limit,
            Duration(seconds(30)));
}

TEST(SectionWatch, StepsAreToldApartByWhatComesWithThem) {
  const SectionWatchOptions o{.eval_interval = 10, .checkpoint_interval = 4};
  EXPECT_EQ(section_of_next_step(o, 0, 25, true), Section::kFirstStep);
  EXPECT_EQ(section_of_next_step(o, 2, 25, false), Section::kStep);
  EXPECT_EQ(section_of_next_step(o, 4, 25, false), Section::kAfterSave);
  EXPECT_EQ(section_of_next_step(o, 9, 25, false), Section::kEvalStep);
  EXPECT_EQ(section_of_next_step(o, 24, 25, false), Section::kEvalStep) << "the last step";
  EXPECT_EQ(section_of_next_step({}, 9, 25, false), Section::kStep);
}

}  // namespace
}  // namespace tenax::scheduler
