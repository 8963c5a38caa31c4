#include "configs/toml_source.h"

#include <gtest/gtest.h>

#include "configs/run_config.h"

namespace tenax::configs {
namespace {

std::vector<std::string> problems_of(std::string_view text) {
  RunConfig config;
  Binder binder = bind(config);
  return read_toml(binder, text, "bad.toml").lines;
}

std::string override_problem(std::string_view assignment) {
  RunConfig config;
  Binder binder = bind(config);
  const auto problems = read_override(binder, assignment);
  return problems.lines.empty() ? "" : problems.lines.front();
}

TEST(TomlSource, ReportsEveryProblemAtOnceInTheOrderOfTheText) {
  EXPECT_EQ(
      problems_of("stepz = 3\n"
                  "[train]\n"
                  "step = 100\n"
                  "  sequence_length = \"long\"\n"
                  "global_batch_size = 0\n"
                  "microbatch_size = 2.5\n"
                  "schedule = \"1f1f\"\n"
                  "[modle]\n"
                  "width = 3\n"
                  "[data]\n"
                  "heldout_fraction = 1.0\n"
                  "text = [\"a\", 3]\n"
                  "[supervision]\n"
                  "hang_timeout = 30\n"
                  "abort_timeout = \"0s\"\n"
                  "[nonsense]\n"
                  "[dashboard]\n"
                  "enabled = \"yes\"\n"
                  "frobnicate = 2020-01-01\n"
                  "port = 70000\n"
                  "[optimizer]\n"
                  "learning_rate = nan\n"
                  "beta1 = inf\n"
                  "[spikes]\n"
                  "patience = 3000000000\n"
                  "drop_confirm = 3000000000\n"
                  "[generate.tokens]\n"
                  "x = 1\n"),
      (std::vector<std::string>{
          "bad.toml:1:1: unknown key 'stepz'; did you mean 'train.steps'?",
          "bad.toml:3:1: unknown key 'train.step'; did you mean 'train.steps'?",
          "bad.toml:4:21: train.sequence_length: expected an integer, got string \"long\"",
          "bad.toml:5:21: train.global_batch_size is 0, must be at least 1 and at most 1048576",
          "bad.toml:6:19: train.microbatch_size: expected an integer, got number 2.5",
          "bad.toml:7:12: train.schedule: expected one of \"1f1b\", \"gpipe\", got string "
          "\"1f1f\"; did you mean \"1f1b\"?",
          "bad.toml:8:2: unknown section 'modle'; did you mean 'model'?",
          "bad.toml:11:20: data.heldout_fraction is 1, must be at least 0 and below 1",
          "bad.toml:12:8: data.text: expected a list of strings, got a list with integer 3",
          "bad.toml:14:16: supervision.hang_timeout: expected a duration such as \"250ms\", "
          "\"3s\" or \"10min\", got integer 30",
          "bad.toml:15:17: supervision.abort_timeout is 0s, must be above 0s",
          "bad.toml:16:2: unknown section 'nonsense'",
          "bad.toml:18:11: dashboard.enabled: expected true or false, got string \"yes\"",
          "bad.toml:19:1: unknown key 'dashboard.frobnicate'",
          "bad.toml:20:8: dashboard.port is 70000, must be at least 0 and at most 65535",
          "bad.toml:22:17: optimizer.learning_rate is nan, must be above 0",
          "bad.toml:23:9: optimizer.beta1 is inf, must be at least 0 and below 1",
          "bad.toml:25:12: spikes.patience is 3000000000, must be at least 1 and at most 64",
          "bad.toml:26:16: spikes.drop_confirm is 3000000000, must be at most 2147483647",
          "bad.toml:27:11: generate.tokens: expected an integer, got a table",
      }));
}

TEST(TomlSource, AValueWhereASectionBelongsIsSaidSo) {
  EXPECT_EQ(problems_of("train = 3\n"),
            (std::vector<std::string>{"bad.toml:1:1: train: expected a table, got integer 3"}));
}

TEST(TomlSource, ASyntaxErrorIsReportedWithItsPlaceAndAlone) {
  const auto problems = problems_of("[train]\nsteps = \nstepz = 4\n");
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_TRUE(problems[0].starts_with("bad.toml:2:")) << problems[0];
}

TEST(TomlSource, TakesIntegersForNumbersAndDottedKeysForSections) {
  RunConfig config;
  Binder binder = bind(config);
  EXPECT_TRUE(
      read_toml(binder, "optimizer.learning_rate = 1\ntrain = {steps = 7}\n", "t").lines.empty());
  EXPECT_EQ(config.optimizer.learning_rate, 1.0);
  EXPECT_EQ(config.train.steps, 7);
}

TEST(Override, TakesTomlValuesAndBareWords) {
  RunConfig config;
  Binder binder = bind(config);
  for (const char* assignment :
       {"train.steps=1_000", "optimizer.learning_rate=3e-4", "dashboard.enabled=false",
        "train.schedule=gpipe", "run.name=my run", "generate.prompt=\"say \\\"hi\\\"\"",
        "supervision.hang_timeout=90s", "data.text=[\"a\", 'b']", "data.gpt2_dir=123"}) {
    EXPECT_EQ(read_override(binder, assignment).lines, std::vector<std::string>{}) << assignment;
  }
  EXPECT_EQ(config.train.steps, 1000);
  EXPECT_EQ(config.optimizer.learning_rate, 3e-4);
  EXPECT_FALSE(config.dashboard.enabled);
  EXPECT_EQ(config.train.schedule, scheduler::ScheduleKind::kGpipe);
  EXPECT_EQ(config.run.name, "my run");
  EXPECT_EQ(config.generate.prompt, "say \"hi\"");
  EXPECT_EQ(config.supervision.hang_timeout, Duration(std::chrono::seconds(90)));
  EXPECT_EQ(config.data.text, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(config.data.gpt2_dir, "123");
  EXPECT_TRUE(read_override(binder, "data.text=docs/**/*.md").lines.empty());
  EXPECT_EQ(config.data.text, std::vector<std::string>{"docs/**/*.md"});
}

TEST(Override, ErrorsNameTheFlag) {
  EXPECT_EQ(override_problem("train.stepz=3"),
            "--set train.stepz=3: unknown key 'train.stepz'; did you mean 'train.steps'?");
  EXPECT_EQ(override_problem("train.steps=many"),
            "--set train.steps=many: train.steps: expected an integer, got 'many'");
  EXPECT_EQ(override_problem("train.steps=0"),
            "--set train.steps=0: train.steps is 0, must be at least 1 and at most 1e+12");
  EXPECT_EQ(override_problem("train.steps="),
            "--set train.steps=: train.steps: expected an integer, got ''");
  EXPECT_EQ(override_problem("train=3"), "--set train=3: 'train' is a section, not a key");
  EXPECT_EQ(override_problem("steps"), "--set steps: expected KEY=VALUE");
  EXPECT_EQ(
      override_problem("data.text=[1]"),
      "--set data.text=[1]: data.text: expected a list of strings, got a list with integer 1");
  EXPECT_EQ(override_problem("train.schedule=1f1"),
            "--set train.schedule=1f1: train.schedule: expected one of \"1f1b\", \"gpipe\", got "
            "string \"1f1\"; did you mean \"1f1b\"?");
}

TEST(Override, SmugglesInNoSecondKey) { EXPECT_NE(override_problem("train.steps=3\nrun = 4"), ""); }

}  // namespace
}  // namespace tenax::configs
