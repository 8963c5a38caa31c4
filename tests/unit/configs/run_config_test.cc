#include "configs/run_config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "configs/toml_source.h"

namespace tenax::configs {
namespace {

constexpr std::string_view kSound = "data.text = [\"*.txt\"]\n";

std::string error_of(const Result<RunConfig>& result) {
  if (result) return "no error";
  EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument);
  return result.error().message;
}

TEST(RunConfig, QuickstartIsSound) {
  const std::filesystem::path path = TENAX_SOURCE_DIR "/configs/quickstart.toml";
  const auto config = load_run_config(path, {});
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->layout.world_size(), 4);
  EXPECT_EQ(config->base_dir, path.parent_path());
  EXPECT_EQ(config->supervision.supervisor_grace, Duration(std::chrono::seconds(20)));
}

TEST(RunConfig, FileOverridesAndContradictionsAreReportedTogether) {
  EXPECT_EQ(
      error_of(parse_run_config("[train]\n"
                                "steps = \"many\"\n"
                                "global_batch_size = 15\n",
                                "run.toml", {"model.widht=3", "optimizer.warmup_steps=9999"})),
      "run.toml:2:9: train.steps: expected an integer, got string \"many\"\n"
      "--set model.widht=3: unknown key 'model.widht'; did you mean 'model.width'?\n"
      "run.toml: data.text is empty: there is nothing to train on\n"
      "run.toml: train.global_batch_size 15 is not a multiple of layout.data_parallel 1 x "
      "train.microbatch_size 2 = 2; 14 or 16 would do");
}

TEST(RunConfig, SaysNothingAboutKeysWhoseValueWasNotTaken) {
  // Warm-up 20 against the default of 200 steps would be sound, against 10 not: steps is unknown
  // here, so no word of it.
  EXPECT_EQ(error_of(parse_run_config("data.text = [\"x\"]\n"
                                      "train.steps = -1\n"
                                      "optimizer.warmup_steps = 1000\n",
                                      "run.toml", {})),
            "run.toml:2:15: train.steps is -1, must be at least 1 and at most 1e+12");
}

TEST(RunConfig, ASyntaxErrorComesAlone) {
  const std::string message = error_of(parse_run_config("[train\n", "run.toml", {}));
  EXPECT_TRUE(message.starts_with("run.toml:1:")) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

TEST(RunConfig, LaterOverridesWin) {
  const auto config = parse_run_config(kSound, "t", {"train.steps=30", "train.steps=40"});
  ASSERT_TRUE(config);
  EXPECT_EQ(config->train.steps, 40);
}

TEST(RunConfig, AMissingFileIsNamed) {
  const auto config = load_run_config("/nonexistent/run.toml", {});
  ASSERT_FALSE(config);
  EXPECT_EQ(config.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(config.error().message,
            "reading configuration /nonexistent/run.toml: No such file or directory");
  const auto folder = load_run_config("/", {});
  ASSERT_FALSE(folder);
  EXPECT_EQ(folder.error().message, "reading configuration /: Is a directory");
}

TEST(RunConfig, CanonicalTextReadsBackAsTheSame) {
  const auto config = load_run_config(TENAX_SOURCE_DIR "/configs/quickstart.toml",
                                      {"optimizer.epsilon=1e-300", "generate.prompt=\"a\\nb\""});
  ASSERT_TRUE(config) << config.error().message;
  const std::string text = canonical_text(*config);
  const auto again = parse_run_config(text, "canonical", {});
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(canonical_text(*again), text);
  EXPECT_EQ(config_digest(*again), config_digest(*config));
  EXPECT_EQ(again->generate.prompt, "a\nb");
  EXPECT_EQ(again->model, config->model);
}

/// TOML values of which at least one is allowed and not the default.
std::vector<std::string> candidates(const KeyInfo& k) {
  if (k.type == "boolean") return {"true", "false"};
  if (k.type == "string") return {"\"other\""};
  if (k.type == "list of strings") return {"[\"other\"]"};
  if (k.type == "duration") return {"\"7s\""};
  if (k.type == "integer") return {"1", "2", "9", "300"};
  if (k.type == "number") return {"0.25", "0.75", "1.5"};
  const std::size_t first_end = k.type.find('|');
  return {"\"" + k.type.substr(0, first_end) + "\"",
          "\"" + k.type.substr(k.type.rfind('|') + 1) + "\""};
}

// Changes every key in turn: each must reach a member of its own, the canonical text, the digest
// and the diff.
TEST(RunConfig, EveryKeyCanBeSetAndIsSeenInTheDiff) {
  const auto base = parse_run_config(kSound, "t", {});
  ASSERT_TRUE(base);
  std::set<Hash128> digests{config_digest(*base)};
  for (const KeyInfo& k : list_keys()) {
    SCOPED_TRACE(k.key);
    EXPECT_FALSE(k.doc.empty());
    bool has_changed = false;
    for (const std::string& value : candidates(k)) {
      RunConfig changed = *base;
      Binder binder = bind(changed);
      if (value == k.value || !read_toml(binder, k.key + " = " + value, "t").lines.empty())
        continue;
      has_changed = true;
      digests.insert(config_digest(changed));
      const ConfigDiff d = diff(*base, changed);
      ASSERT_EQ(d.changeable.size() + d.fixed.size(), 1u);
      const auto& change = k.changeable == Changeable::kYes ? d.changeable : d.fixed;
      ASSERT_EQ(change.size(), 1u);
      EXPECT_EQ(change[0].key, k.key);
      EXPECT_EQ(change[0].after, value);
      break;
    }
    EXPECT_TRUE(has_changed);
  }
  EXPECT_EQ(digests.size(), list_keys().size() + 1);
}

TEST(RunConfig, EverySpikeOptionHasAKey) {
  std::set<std::string> expected;
  scheduler::SpikeOptions options;
  scheduler::for_each_spike_option(options, [&](std::string_view name, const auto&) {
    expected.insert("spikes." + std::string(name));
  });
  std::set<std::string> keys;
  for (const KeyInfo& k : list_keys()) {
    if (k.key.starts_with("spikes.")) keys.insert(k.key);
  }
  // [spikes] has the keys of the step guard too.
  EXPECT_TRUE(std::ranges::includes(keys, expected));
}

TEST(RunConfig, KeysChangeableOnResumeAreTheOnesThatLeaveTheRunTheSameRun) {
  std::set<std::string> changeable;
  for (const KeyInfo& k : list_keys()) {
    if (k.changeable == Changeable::kYes) changeable.insert(k.key);
  }
  for (const char* key : {"train.steps", "train.eval_interval", "optimizer.learning_rate",
                          "optimizer.warmup_steps", "checkpoint.interval", "checkpoint.keep_last",
                          "dashboard.port", "supervision.hang_timeout", "spikes.patience"}) {
    EXPECT_TRUE(changeable.contains(key)) << key;
  }
  for (const char* key : {"run.seed", "data.text", "model.width", "layout.data_parallel",
                          "train.global_batch_size", "optimizer.beta1", "faults.poison_batch"}) {
    EXPECT_FALSE(changeable.contains(key)) << key;
  }
}

TEST(RunConfig, DiffNamesBothValues) {
  const auto before = parse_run_config(kSound, "t", {});
  const auto after = parse_run_config(kSound, "t", {"train.steps=300", "model.width=256"});
  ASSERT_TRUE(before && after);
  const ConfigDiff d = diff(*before, *after);
  ASSERT_EQ(d.changeable.size(), 1u);
  EXPECT_EQ(d.changeable[0].key, "train.steps");
  EXPECT_EQ(d.changeable[0].before, "200");
  EXPECT_EQ(d.changeable[0].after, "300");
  ASSERT_EQ(d.fixed.size(), 1u);
  EXPECT_EQ(d.fixed[0].key, "model.width");
}

TEST(RunConfig, TheFolderOfTheRecipeIsNoPartOfItsDigest) {
  auto config = parse_run_config(kSound, "t", {});
  ASSERT_TRUE(config);
  const Hash128 before = config_digest(*config);
  config->base_dir = "/elsewhere";
  EXPECT_EQ(config_digest(*config), before);
}

TEST(RunConfig, ModelOptionsTakeVocabularyAndLengthFromTheirSources) {
  const auto config = parse_run_config(kSound, "t", {"train.sequence_length=96"});
  ASSERT_TRUE(config);
  const auto options = model_options(*config, 257);
  EXPECT_EQ(options.vocabulary_size, 257);
  EXPECT_EQ(options.max_sequence_length, 96);
}

TEST(RunConfig, MarkdownHasEveryKeyAndNoBrokenTable) {
  const std::string text = keys_as_markdown();
  for (const KeyInfo& k : list_keys()) {
    EXPECT_NE(text.find("| `" + k.key + "` |"), std::string::npos) << k.key;
  }
  EXPECT_NE(text.find("| `train.schedule` | 1f1b \\| gpipe | `\"1f1b\"` |"), std::string::npos);
}

}  // namespace
}  // namespace tenax::configs
