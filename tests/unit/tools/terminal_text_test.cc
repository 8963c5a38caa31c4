#include "tools/terminal_text.h"

#include <gtest/gtest.h>

#include "tools/progress_line.h"

namespace tenax::tools {
namespace {

TEST(TerminalText, LongTextIsBrokenAtSpacesAndIndented) {
  EXPECT_EQ(wrapped("one two three four", 9, 2), "one two\n  three\n  four");
  EXPECT_EQ(wrapped("  one two three", 8, 4), "  one\n    two\n    three");
  EXPECT_EQ(wrapped("fits", 9, 2), "fits");
  EXPECT_EQ(wrapped("exactly9!", 9, 2), "exactly9!");
  EXPECT_EQ(wrapped("exactly9! then", 9, 2), "exactly9!\n  then");
  EXPECT_EQ(wrapped("", 9, 2), "");
}

TEST(TerminalText, NothingIsBrokenWhereThereIsNoTerminalAndNoWordEver) {
  EXPECT_EQ(wrapped("one two three four", 0, 2), "one two three four");
  EXPECT_EQ(wrapped("a /path/that/is/long b", 8, 2), "a\n  /path/that/is/long\n  b");
  EXPECT_EQ(wrapped("/path/that/is/long", 8, 2), "/path/that/is/long");
  EXPECT_EQ(wrapped("    /path/that/is/long b", 8, 2), "    /path/that/is/long\n  b");
}

TEST(TerminalText, TheLeastWorthPartsAreLeftOutFirst) {
  const std::vector<LinePart> parts = {{"step 1", 3}, {"norm 2", 1}, {"loss 3", 2}};
  EXPECT_EQ(fitted(parts, 0), "step 1  norm 2  loss 3");
  EXPECT_EQ(fitted(parts, 22), "step 1  norm 2  loss 3");
  EXPECT_EQ(fitted(parts, 21), "step 1  loss 3");
  EXPECT_EQ(fitted(parts, 4), "step");
}

TEST(ProgressLine, KeepsTimeLeftAndRestartsOnANarrowTerminal) {
  actors::Progress progress;
  progress.phase = scheduler::Phase::kRunning;
  progress.step = 88;
  progress.total_steps = 300;
  progress.loss = 2.7301;
  progress.tokens_per_second = 11361;
  progress.tflops = 0.065;
  progress.mfu = 0.16;
  progress.eval_loss = 2.84;
  progress.has_eval = true;
  progress.eta_seconds = 41;
  progress.restarts = 1;
  EXPECT_EQ(progress_text(progress, 79),
            "step 88/300  loss 2.7301  11361 tokens/s  held-out 2.8400  41s left  restarts 1");
  EXPECT_EQ(progress_text(progress, 0),
            "step 88/300  loss 2.7301  grad norm 0.00  11361 tokens/s  0.065 TFLOP/s  MFU 16 %  "
            "held-out 2.8400  41s left  restarts 1");
}

}  // namespace
}  // namespace tenax::tools
