#include "tools/model_command.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "compute/cuda/tenax_cuda.h"
#include "compute/cuda_stage_memory.h"
#include "compute/stage.h"
#include "compute/tensor_part.h"
#include "configs/model_card.h"
#include "configs/run_config.h"

namespace tenax::tools {
namespace {

compute::ModelOptions model(const std::string& name) {
  const auto card = configs::load_model_card(name);
  EXPECT_TRUE(card) << card.error().message;
  return card ? card->model : compute::ModelOptions{};
}

std::vector<RankMemory> memory(const std::string& name, const LayoutQuestion& question) {
  const auto ranks = plan_layout_memory(model(name), question);
  EXPECT_TRUE(ranks) << ranks.error().message;
  return ranks ? *ranks : std::vector<RankMemory>{};
}

std::string error_of(const std::string& name, const LayoutQuestion& question) {
  const auto ranks = plan_layout_memory(model(name), question);
  return ranks ? "no error" : ranks.error().message;
}

TEST(CountParameters, TellsThePartsOfGpt2Apart) {
  const ParameterCounts c = count_parameters(model("gpt2-124m"));
  EXPECT_EQ(c.embedding, (50257 + 1024) * 768);
  EXPECT_EQ(c.attention, 12 * (4 * 768 * 768 + 4 * 768));
  EXPECT_EQ(c.ffn, 12 * (8 * 768 * 768 + 5 * 768));
  EXPECT_EQ(c.norms, 12 * 4 * 768 + 2 * 768);
  EXPECT_EQ(c.head, 0);
  EXPECT_EQ(c.total(), 124439808);
}

TEST(CountParameters, AnUntiedHeadIsAPartOfItsOwn) {
  const ParameterCounts c = count_parameters(model("llama-7b"));
  EXPECT_EQ(c.head, 32000 * 4096);
  EXPECT_EQ(c.norms, 65 * 4096);
}

TEST(CountParameters, TheNormOfTheEmbeddingIsANorm) {
  const ParameterCounts c = count_parameters(model("bloom-176b"));
  EXPECT_EQ(c.embedding, 3596615680);
  EXPECT_EQ(c.norms, 70LL * 4 * 14336 + 4 * 14336);
}

TEST(PlanLayoutMemory, OneRankHoldsTheWholeModel) {
  const auto ranks = memory("gpt2-124m", {});
  ASSERT_EQ(ranks.size(), 1u);
  EXPECT_EQ(ranks[0].num_parameters, 124439808);
  EXPECT_EQ(ranks[0].optimizer, 2 * ranks[0].weights);
  // Tensors begin on multiples of 64 bytes: a little more than 4 bytes a parameter.
  EXPECT_GE(ranks[0].weights, 4LL * 124439808);
  EXPECT_LT(ranks[0].weights, 4LL * 124439808 + 64 * 200);
  const compute::ModelOptions o = model("gpt2-124m");
  const auto planned = compute::plan_stage_memory(o, compute::whole_model(o), {1, 1024});
  ASSERT_TRUE(planned);
  EXPECT_EQ(ranks[0].activations, planned->slot);
}

TEST(PlanLayoutMemory, OnAGpuIsThePlanOfTheCudaEngine) {
  LayoutQuestion question{.microbatch_size = 4};
  const auto on_cpu = memory("gpt2-124m", question);
  question.settings.precision = compute::Precision::kBf16;
  question.on_gpu = true;
  const auto ranks = memory("gpt2-124m", question);
  const compute::ModelOptions o = compute::resolved(model("gpt2-124m"));
  const compute::StageMemory planned =
      compute::plan_cuda_memory(o, compute::whole_model(o), {4, 1024}, question.settings);
  ASSERT_EQ(ranks.size(), 1u);
  EXPECT_EQ(ranks[0].weights, planned.values);
  EXPECT_EQ(ranks[0].activations, planned.slot);
  EXPECT_EQ(ranks[0].workspace, planned.workspace + TENAX_CUDA_WORKSPACE_BYTES);
  EXPECT_LT(ranks[0].activations, on_cpu[0].activations);
}

TEST(PlanRunMemory, OfWorkersOnGpusIsHeldAgainstThese) {
  auto config = configs::parse_run_config(
      "[data]\ntext = [\"text\"]\n[model]\nwidth = 768\nlayers = 12\nheads = 12\n[layout]\n"
      "data_parallel = 2\npipeline_parallel = 1\n",
      "recipe", {"train.device=cuda"});
  ASSERT_TRUE(config) << config.error().message;
  const auto problem = [&](const GpuMemory& gpus) {
    const auto ranks = plan_run_memory(*config, 50257, gpus);
    return ranks ? "" : ranks.error().message;
  };
  const std::int64_t rank = plan_run_memory(*config, 50257)->front().total();
  EXPECT_EQ(problem({rank, 2}), "");
  EXPECT_EQ(problem({2 * rank, 1}), "");
  EXPECT_NE(problem({2 * rank - 1, 1}).find("more memory than the GPU's "), std::string::npos)
      << problem({2 * rank - 1, 1});
  EXPECT_NE(problem({rank - 1, 4}).find("more memory than 4 GPUs of "), std::string::npos)
      << problem({rank - 1, 4});
}

TEST(PlanLayoutMemory, AnEarlierStageHoldsMoreMicrobatches) {
  // The head is worth two layers: 12, 13, 13, 10. 1F1B keeps 4, 3, 2, 1 microbatches; the middle
  // stages differ in nothing else.
  const auto ranks = memory("gpt2-1.5b", {.pp = 4, .num_microbatches = 16});
  ASSERT_EQ(ranks.size(), 4u);
  EXPECT_EQ(ranks[1].weights, ranks[2].weights);
  EXPECT_EQ(2 * ranks[1].activations, 3 * ranks[2].activations);
  // A tied embedding is held by both ends.
  std::int64_t sum = 0;
  for (const RankMemory& r : ranks) sum += r.num_parameters;
  EXPECT_EQ(sum, 1557611200 + 50257 * 1600);
  // 16 microbatches in a tree need 5 buffers, and the reduced sums one.
  EXPECT_EQ(ranks[1].gradients, 6 * ranks[1].weights);
}

TEST(PlanLayoutMemory, TensorParallelismDividesWhatItDivides) {
  const auto ranks = memory("gpt2-124m", {.tp = 2});
  ASSERT_EQ(ranks.size(), 1u);
  const std::int64_t h = 768, heads = h / 2, f = 4 * h / 2;
  const std::int64_t layer = 3 * (h * heads + heads) + heads * h +
                             h                        // attention; whole output bias
                             + h * f + f + f * h + h  // feed-forward
                             + 4 * h;                 // norms
  // Half of the vocabulary, padded to an even number; all positions.
  EXPECT_EQ(ranks[0].num_parameters, 25129 * h + 1024 * h + 12 * layer + 2 * h);
  EXPECT_LT(ranks[0].activations, memory("gpt2-124m", {})[0].activations);
}

TEST(PlanLayoutMemory, ZeroDividesTheOptimizerStateOverTheReplicas) {
  const auto whole = memory("gpt2-124m", {.dp = 4});
  const auto shared = memory("gpt2-124m", {.dp = 4, .zero = 1});
  EXPECT_EQ(shared[0].weights, whole[0].weights);
  EXPECT_GE(shared[0].optimizer, whole[0].optimizer / 4);
  // Two sections are cut at chunks of 4096 elements each.
  EXPECT_LT(shared[0].optimizer, whole[0].optimizer / 4 + 2 * 2 * 4096 * 8);
}

TEST(PlanLayoutMemory, VirtualStagesOfARankAreAddedUp) {
  const auto plain = memory("gpt2-124m", {.pp = 2, .num_microbatches = 8});
  const auto chunks = memory("gpt2-124m", {.pp = 2, .virtual_stages = 3, .num_microbatches = 8});
  ASSERT_EQ(chunks.size(), 2u);
  ASSERT_EQ(chunks[1].layers.size(), 3u);
  EXPECT_EQ(chunks[1].layers[2].end, 12);
  EXPECT_EQ(chunks[0].num_parameters, plain[0].num_parameters);
  EXPECT_EQ(chunks[1].num_parameters, plain[1].num_parameters);
  EXPECT_EQ(chunks[1].optimizer, plain[1].optimizer);
  EXPECT_GT(chunks[0].activations, plain[0].activations) << "more microbatches are on their way";
}

TEST(PlanLayoutMemory, FewerKeyAndValueHeadsThanRanksAreReplicated) {
  const auto part = compute::local_options(model("palm-540b"), {8, 3});
  EXPECT_EQ(part.num_kv_heads, 1);
  EXPECT_EQ(part.num_heads, 6);
  EXPECT_EQ(part.head_dim, 256);
  EXPECT_EQ(part.width, 18432);
}

TEST(PlanLayoutMemory, ImpossibleLayoutsAreRefusedWithEveryReason) {
  EXPECT_EQ(error_of("gpt2-124m", {.tp = 5}),
            "layout: heads 12 is not a multiple of tp 5; ffn_width 3072 is not a multiple of tp 5; "
            "kv_heads 12 is not a multiple of tp 5");
  EXPECT_EQ(error_of("gpt2-124m", {.dp = 0, .pp = 13, .sequence_length = 1025}),
            "layout: dp is 0, must be between 1 and 65536; pp is 13, must be between 1 and 12; "
            "sequence is 1025, must be between 1 and 1024");
}

TEST(ModelCommand, ListNamesEveryCard) {
  std::ostringstream out, errors;
  EXPECT_EQ(run_model_list(false, out, errors), 0);
  for (const std::string& name : configs::model_card_names())
    EXPECT_NE(out.str().find(name), std::string::npos) << name;
  EXPECT_NE(out.str().find("176,247,271,424"), std::string::npos);
}

TEST(ModelCommand, ShowPrintsOriginsPartsAndMemory) {
  std::ostringstream out, errors;
  ModelArguments arguments;
  arguments.name = "gpt3-175b";
  arguments.layout = {.dp = 2, .tp = 8, .pp = 8};
  EXPECT_EQ(run_model_show(arguments, out, errors), 0);
  for (const char* part :
       {"12288                 published  arXiv:2005.14165 table 2.1", "4 * 12288",
        "deviation: attention: dense and locally banded", "174,604,259,328",
        "-0.23 % of the published 1.75e+11", "= 128 ranks", "84-95"}) {
    EXPECT_NE(out.str().find(part), std::string::npos) << part << "\n in\n" << out.str();
  }
}

TEST(ModelCommand, JsonHasTheSameFigures) {
  std::ostringstream out, errors;
  ModelArguments arguments;
  arguments.name = "palm-8b";
  arguments.json = true;
  EXPECT_EQ(run_model_show(arguments, out, errors), 0);
  const auto j = nlohmann::json::parse(out.str());
  EXPECT_EQ(j["model"]["kv_heads"]["value"], 1);
  EXPECT_EQ(j["model"]["z_loss"]["value"], 1e-4);
  EXPECT_TRUE(j["model"]["logit_scale"]["sum"].get<std::string>().starts_with("1 / sqrt(4096)"));
  EXPECT_EQ(j["parameters"]["total"], 8632012800);
  EXPECT_EQ(j["memory"].size(), 1u);
}

TEST(ModelCommand, ShowsTheMemoryOfTheDeviceAndPrecisionAskedFor) {
  std::ostringstream out, errors;
  ModelArguments arguments;
  arguments.name = "gpt2-124m";
  EXPECT_EQ(run_model_show(arguments, out, errors), 0);
  EXPECT_NE(out.str().find("memory of a rank, device cpu, fp32: dp 1"), std::string::npos);
  arguments.layout.on_gpu = true;
  arguments.layout.settings.precision = compute::Precision::kBf16;
  out.str("");
  EXPECT_EQ(run_model_show(arguments, out, errors), 0);
  EXPECT_NE(out.str().find("memory of a rank, device cuda, bf16: dp 1"), std::string::npos);
  arguments.json = true;
  out.str("");
  EXPECT_EQ(run_model_show(arguments, out, errors), 0);
  const auto j = nlohmann::json::parse(out.str());
  EXPECT_EQ(j["device"], "cuda");
  EXPECT_EQ(j["precision"], "bf16");
  EXPECT_EQ(j["memory"][0]["total"], memory("gpt2-124m", arguments.layout)[0].total());
}

TEST(ModelCommand, AnUnknownNameIsAConfigurationError) {
  std::ostringstream out, errors;
  ModelArguments arguments;
  arguments.name = "gpt3";
  EXPECT_EQ(run_model_show(arguments, out, errors), 3);
  EXPECT_NE(errors.str().find("there is no model card 'gpt3'"), std::string::npos);
  EXPECT_EQ(out.str(), "");
}

}  // namespace
}  // namespace tenax::tools
