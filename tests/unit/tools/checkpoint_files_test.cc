// Weights on their way out to safetensors files and back, and what an independent program (numpy,
// tests/reference/exported_logits.py) computes from the files.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <sstream>

#include "checkpoint/reader.h"
#include "checkpoint/store.h"
#include "common/counter_rng.h"
#include "common/hash.h"
#include "compute/stage.h"
#include "tools/checkpoint_commands.h"
#include "tools/checkpoint_export.h"
#include "tools/checkpoint_import.h"
#include "tools/hugging_face.h"
#include "tools/initial_checkpoint.h"

namespace tenax::tools {
namespace {

namespace fs = std::filesystem;
using compute::ModelOptions;

class TempDir {
 public:
  TempDir() {
    std::string name = fs::temp_directory_path() / "tenax-tools-XXXXXX";
    path_ = ::mkdtemp(name.data());
  }
  ~TempDir() { fs::remove_all(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

ModelOptions gpt2() {
  ModelOptions o;
  o.vocabulary_size = 29;
  o.padded_vocabulary_size = 32;
  o.max_sequence_length = 16;
  o.width = 24;
  o.num_heads = 3;
  o.ffn_width = 40;
  return o;
}

ModelOptions llama() {
  ModelOptions o = gpt2();
  o.norm = compute::NormKind::kRmsNorm;
  o.positions = compute::PositionKind::kRope;
  o.activation = compute::ActivationKind::kSwiglu;
  o.biases = false;
  o.tied_output = false;
  o.num_heads = 4;
  o.num_kv_heads = 2;
  o.head_dim = 6;
  o.rope_theta = 500;
  return o;
}

/// Large enough that every tensor, biases too, shows in the logits.
Status fill(const compute::ParameterSpec& spec, std::span<float> values) {
  const CounterRng rng(5, hash64(spec.name));
  const float middle = spec.shape.size() == 1 && spec.name.ends_with("weight") ? 1.0f : 0.0f;
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = middle + 0.3f * rng.normal(i);
  return {};
}

struct Saved {
  std::unique_ptr<checkpoint::Store> store;
  checkpoint::Manifest manifest;
};

Saved save(const fs::path& path, const ModelOptions& model) {
  checkpoint::StoreOptions options;
  options.holder = {"test", ::getpid(), 1, Time{}};
  Saved saved;
  auto store = checkpoint::Store::open(path.string(), options);
  EXPECT_TRUE(store) << store.error().message;
  saved.store = *std::move(store);
  checkpoint::Manifest manifest;
  manifest.checkpoint_id = 1;
  manifest.run_id = "test";
  const Status written = write_initial_checkpoint(*saved.store, manifest, model, fill);
  EXPECT_TRUE(written) << written.error().message;
  saved.manifest = *saved.store->manifest(1);
  return saved;
}

void expect_logits_of(const ModelOptions& model) {
  const TempDir dir;
  const Saved saved = save(dir / "run", model);
  const checkpoint::CheckpointReader reader(*saved.store, saved.manifest);
  ExportOptions to;
  to.folder = dir / "out";
  to.max_file_bytes = 8000;  // several files
  const auto summary = export_weights(reader, model, to);
  ASSERT_TRUE(summary) << summary.error().message;
  ASSERT_GT(summary->files.size(), 3u);

  const std::vector<std::int32_t> tokens{3, 28, 0, 17, 17, 5};
  std::string command = "/usr/bin/python3 " TENAX_SOURCE_DIR
                        "/tests/reference/exported_logits.py " +
                        to.folder.string();
  for (const auto t : tokens) command += " " + std::to_string(t);
  FILE* pipe = ::popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::vector<double> theirs;
  double value = 0;
  while (std::fscanf(pipe, "%lf", &value) == 1) theirs.push_back(value);
  const int status = ::pclose(pipe);
  if (WEXITSTATUS(status) == 77 || WEXITSTATUS(status) == 127) GTEST_SKIP() << "no python3-numpy";
  ASSERT_EQ(status, 0);

  const auto stage = compute::Stage::create(model, compute::whole_model(model), {1, 16}, 0);
  ASSERT_TRUE(stage) << stage.error().message;
  for (const compute::StageParameter& p : (*stage)->parameters()) {
    ASSERT_TRUE(fill(p.spec, (*stage)->values().subspan(static_cast<std::size_t>(p.offset),
                                                        static_cast<std::size_t>(p.size))));
  }
  std::vector<float> ours(29);
  (*stage)->next_token_logits(tokens, ours);
  ASSERT_EQ(theirs.size(), ours.size());
  for (std::size_t i = 0; i < ours.size(); ++i) {
    // fp32 against double; logits are of size 10, sums of a few hundred terms.
    EXPECT_NEAR(ours[i], theirs[i], 2e-4) << i;
  }
}

TEST(CheckpointExport, Gpt2LogitsFromTheFilesAreOurs) { expect_logits_of(gpt2()); }

TEST(CheckpointExport, UntiedGpt2WithReluToo) {
  ModelOptions model = gpt2();
  model.tied_output = false;
  model.activation = compute::ActivationKind::kRelu;
  expect_logits_of(model);
}

TEST(CheckpointExport, LlamaLogitsFromTheFilesAreOurs) { expect_logits_of(llama()); }

TEST(CheckpointExport, LlamaWithBiasesAndTiedOutputToo) {
  ModelOptions model = llama();
  model.biases = true;
  model.tied_output = true;
  expect_logits_of(model);
}

std::map<std::string, std::vector<std::int64_t>> shapes(const ModelOptions& model) {
  std::map<std::string, std::vector<std::int64_t>> out;
  for (const ForeignTensor& t : foreign_model(model).tensors) out[t.name] = t.shape;
  return out;
}

TEST(HuggingFace, NamesAndShapesAreThoseOfTransformers) {
  using Shape = std::vector<std::int64_t>;
  const auto g = shapes(gpt2());
  EXPECT_EQ(g.size(), 2u + 2 * 12 + 2);
  EXPECT_EQ(g.at("transformer.wte.weight"), (Shape{29, 24})) << "without padding";
  EXPECT_EQ(g.at("transformer.wpe.weight"), (Shape{16, 24}));
  EXPECT_EQ(g.at("transformer.h.1.attn.c_attn.weight"), (Shape{24, 72}));
  EXPECT_EQ(g.at("transformer.h.1.attn.c_attn.bias"), (Shape{72}));
  EXPECT_EQ(g.at("transformer.h.0.mlp.c_fc.weight"), (Shape{24, 40}));
  EXPECT_EQ(g.at("transformer.h.0.mlp.c_proj.weight"), (Shape{40, 24}));
  EXPECT_EQ(g.at("transformer.ln_f.bias"), (Shape{24}));
  const auto l = shapes(llama());
  EXPECT_EQ(l.size(), 1u + 2 * 9 + 2);
  EXPECT_EQ(l.at("model.layers.1.self_attn.k_proj.weight"), (Shape{12, 24}));
  EXPECT_EQ(l.at("model.layers.0.mlp.gate_proj.weight"), (Shape{40, 24}));
  EXPECT_EQ(l.at("lm_head.weight"), (Shape{29, 24}));
  ModelOptions odd = gpt2();
  odd.positions = compute::PositionKind::kAlibi;
  EXPECT_EQ(foreign_model(odd).scheme, NamingScheme::kTenax);
  EXPECT_EQ(shapes(odd).at("embedding.token.weight"), (Shape{32, 24})) << "as stored";
}

TEST(CheckpointImport, BringsBackEveryWeightOfEveryScheme) {
  ModelOptions odd = gpt2();
  odd.positions = compute::PositionKind::kAlibi;
  for (const ModelOptions& model : {gpt2(), llama(), odd}) {
    const TempDir dir;
    const Saved saved = save(dir / "run", model);
    ExportOptions to;
    to.folder = dir / "out";
    ASSERT_TRUE(export_weights({*saved.store, saved.manifest}, model, to));
    const auto files = checkpoint::SafetensorsModel::open(to.folder.string());
    ASSERT_TRUE(files) << files.error().message;
    const auto source = weights_from(*files, model);
    ASSERT_TRUE(source) << source.error().message;
    for (const compute::ParameterSpec& spec : compute::model_parameters(model)) {
      std::vector<float> back(static_cast<std::size_t>(spec.num_elements()), 0.0f);
      std::vector<float> expected = back;
      ASSERT_TRUE((*source)(spec, back));
      ASSERT_TRUE(fill(spec, expected));
      const bool padded =
          spec.shape[0] == 32 && foreign_model(model).scheme != NamingScheme::kTenax;
      if (padded) std::fill(expected.begin() + 29 * 24, expected.end(), 0.0f);
      EXPECT_EQ(back, expected) << spec.name;
    }
  }
}

TEST(CheckpointImport, SaysWhatDoesNotFitTheRecipe) {
  const TempDir dir;
  const Saved saved = save(dir / "run", llama());
  ExportOptions to;
  to.folder = dir / "out";
  ASSERT_TRUE(export_weights({*saved.store, saved.manifest}, llama(), to));
  const auto again = export_weights({*saved.store, saved.manifest}, llama(), to);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::kAlreadyExists);
  const auto files = checkpoint::SafetensorsModel::open(to.folder.string());
  ASSERT_TRUE(files);
  ModelOptions other = llama();
  other.num_layers = 3;
  other.ffn_width = 41;
  const auto source = weights_from(*files, other);
  ASSERT_FALSE(source);
  EXPECT_EQ(source.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(source.error().message.find("model.layers.2.mlp.up_proj.weight is missing"),
            std::string::npos);
  EXPECT_NE(source.error().message.find("has shape [40, 24], the recipe's model needs [41, 24]"),
            std::string::npos);
  other = llama();
  other.num_layers = 1;
  EXPECT_NE(weights_from(*files, other).error().message.find("layers.1.mlp.up_proj.weight has no"),
            std::string::npos);
  other = llama();
  other.tied_output = true;
  EXPECT_NE(weights_from(*files, other).error().message.find("lm_head.weight differs"),
            std::string::npos);
}

TEST(HuggingFace, AConfigThatContradictsTheModelIsFound) {
  const std::string same = transformers_config(llama(), NamingScheme::kLlama, 0);
  EXPECT_TRUE(contradictions(llama(), NamingScheme::kLlama, same)->empty());
  ModelOptions other = llama();
  other.num_heads = 2;
  other.num_kv_heads = 1;
  other.head_dim = 12;
  other.rope_theta = 10000;
  EXPECT_EQ(contradictions(other, NamingScheme::kLlama, same)->size(), 4u);
  EXPECT_FALSE(contradictions(other, NamingScheme::kLlama, "{"));
}

TEST(CheckpointExport, SizesAndDtypesAreRead) {
  EXPECT_EQ(*parse_bytes("2GB"), 2'000'000'000u);
  EXPECT_EQ(*parse_bytes("1.5KiB"), 1536u);
  EXPECT_EQ(*parse_bytes("17"), 17u);
  for (const char* bad : {"", "GB", "-1", "0", "2 GB", "nan", "inf", "1e400", "2gb"}) {
    EXPECT_FALSE(parse_bytes(bad)) << bad;
  }
  EXPECT_EQ(*parse_dtype("bf16"), checkpoint::FloatFormat::kBf16);
  EXPECT_FALSE(parse_dtype("f8"));
}

TEST(CheckpointDiff, NamesAreRunsAndSteps) {
  EXPECT_EQ(parse_checkpoint_name("runs/a:12", {}), (CheckpointName{"runs/a", 12}));
  EXPECT_EQ(parse_checkpoint_name("runs/a", {}), (CheckpointName{"runs/a", -1}));
  EXPECT_EQ(parse_checkpoint_name("7", "runs/a"), (CheckpointName{"runs/a", 7}));
  EXPECT_EQ(parse_checkpoint_name("7", {}), (CheckpointName{"7", -1}));
  EXPECT_EQ(parse_checkpoint_name("a:b", {}), (CheckpointName{"a:b", -1}));
}

TEST(InitialCheckpoint, RefusesWeightsThatAreNotFinite) {
  const TempDir dir;
  checkpoint::StoreOptions options;
  options.holder = {"test", ::getpid(), 1, Time{}};
  const auto store = checkpoint::Store::open((dir / "run").string(), options);
  ASSERT_TRUE(store);
  checkpoint::Manifest manifest;
  manifest.checkpoint_id = 1;
  const Status status = write_initial_checkpoint(
      **store, manifest, gpt2(), [](const compute::ParameterSpec& spec, std::span<float> values) {
        if (spec.name == "final_norm.bias") values[3] = NAN;
        return Status();
      });
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message.find("final_norm.bias: element 3"), std::string::npos);
  EXPECT_TRUE((*store)->manifests()->empty());
}

}  // namespace
}  // namespace tenax::tools
