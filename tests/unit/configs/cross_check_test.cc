#include "configs/cross_check.h"

#include <gtest/gtest.h>

namespace tenax::configs {
namespace {

using Messages = std::vector<std::string>;

RunConfig sound() {
  RunConfig c;
  c.data.text = {"*.txt"};
  return c;
}

TEST(CrossCheck, FindsNothingInASoundConfig) { EXPECT_EQ(cross_check(sound()), Messages{}); }

TEST(CrossCheck, ShowsTheSumOfABatchThatDoesNotDivide) {
  RunConfig c = sound();
  c.layout.data_parallel = 3;
  EXPECT_EQ(cross_check(c),
            Messages{"train.global_batch_size 16 is not a multiple of layout.data_parallel 3 x "
                     "train.microbatch_size 2 = 6; 12 or 18 would do"});
  c.train.global_batch_size = 4;
  EXPECT_EQ(cross_check(c),
            Messages{"train.global_batch_size 4 is not a multiple of layout.data_parallel 3 x "
                     "train.microbatch_size 2 = 6; 6 would do"});
}

TEST(CrossCheck, RefusesMoreStagesThanLayers) {
  RunConfig c = sound();
  c.layout.pipeline_parallel = 3;
  c.model.num_layers = 2;
  EXPECT_EQ(cross_check(c), Messages{"layout.pipeline_parallel 3 is more than model.layers 2: a "
                                     "stage needs at least one layer"});
}

TEST(CrossCheck, RefusesVirtualStagesWithoutAPipelineThatInterleavesThem) {
  RunConfig c = sound();
  c.layout.virtual_stages = 2;
  c.model.num_layers = 3;
  EXPECT_EQ(cross_check(c),
            Messages{"layout.virtual_stages 2 needs layout.pipeline_parallel above 1"});
  c.layout.pipeline_parallel = 2;
  c.train.schedule = scheduler::ScheduleKind::kGpipe;
  EXPECT_EQ(
      cross_check(c),
      (Messages{"layout.virtual_stages 2 x layout.pipeline_parallel 2 is more than model.layers 3: "
                "a virtual stage needs at least one layer",
                "layout.virtual_stages 2 is built for train.schedule \"1f1b\", not for "
                "\"gpipe\""}));
}

TEST(CrossCheck, RefusesParallelismThatIsNotBuilt) {
  RunConfig c = sound();
  c.layout.context_parallel = 4;
  c.layout.expert_parallel = 8;
  EXPECT_EQ(
      cross_check(c),
      (Messages{"layout.context_parallel = 4 is not built yet: only data, tensor and pipeline "
                "parallelism are",
                "layout.expert_parallel = 8 is not built yet: only data, tensor and pipeline "
                "parallelism are"}));
}

TEST(CrossCheck, AllowsOnAGpuWhatTheCpuDoes) {
  RunConfig c = sound();
  c.train.device = ComputeDevice::kCuda;
  c.train.recompute = compute::Recompute::kSelective;
  c.train.dropout.embedding = 0.1;
  c.data.packing = data::Packing::kDocuments;
  EXPECT_EQ(cross_check(c), Messages{});
}

TEST(CrossCheck, RefusesAFaultOfAGpuWhereNoneComputes) {
  RunConfig c = sound();
  c.faults.gpu_step = 3;
  const Messages refused{"faults.gpu_step 3 is a fault of a GPU and needs train.device = \"cuda\""};
  c.train.device = ComputeDevice::kCpu;
  EXPECT_EQ(cross_check(c), refused);
  c.train.device = ComputeDevice::kAuto;
  EXPECT_EQ(cross_check(c), refused);
  c.train.device = ComputeDevice::kCuda;
  EXPECT_EQ(cross_check(c), Messages{});
  c.faults.rank = 5;
  EXPECT_EQ(cross_check(c), Messages{"faults.rank 5 is not one of the 1 ranks"});
}

TEST(CrossCheck, RefusesMatricesThatCannotBeShared) {
  RunConfig c = sound();
  c.layout.tensor_parallel = 3;
  c.model.num_heads = 4;
  c.model.width = 64;
  c.model.ffn_width = 100;
  EXPECT_EQ(cross_check(c),
            (Messages{"layout.tensor_parallel 3: heads 4 is not a multiple of tp 3",
                      "layout.tensor_parallel 3: ffn_width 100 is not a multiple of tp 3",
                      "layout.tensor_parallel 3: kv_heads 4 is not a multiple of tp 3"}));
}

TEST(CrossCheck, RefusesARampThatTheLayoutCannotDivide) {
  RunConfig c = sound();
  c.layout.data_parallel = 2;
  c.train.batch_ramp = {"10 x 4", "10 x 6", "10 x 32"};
  const Messages messages = cross_check(c);
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_NE(messages[0].find("6 of \"10 x 6\" is not a multiple"), std::string::npos);
  EXPECT_NE(messages[1].find("\"10 x 32\" is more than train.global_batch_size 16"),
            std::string::npos);
  c.train.batch_ramp = {"ten"};
  ASSERT_EQ(cross_check(c).size(), 1u);
}

TEST(CrossCheck, RefusesGroupsThatSayNothingOrFitNothing) {
  RunConfig c = sound();
  c.optimizer.groups = {"layers.*: weight_decay=0", "decoder.*: weight_decay=0", "layers"};
  const Messages messages = cross_check(c);
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_NE(messages[0].find("no tensor of the model fits \"decoder.*\""), std::string::npos)
      << messages[0];
  EXPECT_NE(messages[1].find("\"layers\" is no parameter group: it has no colon"),
            std::string::npos)
      << messages[1];
}

TEST(CrossCheck, RefusesABlendBesideTextAndPartsWithoutAWeight) {
  RunConfig c = sound();
  c.data.blend = {"0.5 a/*", "b/*"};
  const Messages messages = cross_check(c);
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_NE(messages[0].find("data.text and data.blend are both given"), std::string::npos);
  EXPECT_NE(messages[1].find("\"b/*\" is no part of a blend"), std::string::npos);
  c.data.text.clear();
  c.data.blend = {"0.5 a/*"};
  EXPECT_EQ(cross_check(c), Messages{});
}

TEST(CrossCheck, RefusesAgentsThatDoNotDivideTheWorkers) {
  RunConfig c = sound();
  c.layout.data_parallel = 2;
  c.layout.pipeline_parallel = 2;
  c.model.num_layers = 2;
  c.layout.agents = 3;
  EXPECT_EQ(cross_check(c),
            Messages{"layout.agents 3 does not divide the 4 workers (data_parallel 2 x "
                     "tensor_parallel 1 x pipeline_parallel 2)"});
}

TEST(CrossCheck, ReportsWhatTheModelCannotBeWithTheNamesOfItsKeys) {
  RunConfig c = sound();
  c.model.width = 65;
  c.model.num_heads = 4;
  c.model.num_kv_heads = 3;
  EXPECT_EQ(cross_check(c),
            (Messages{"model: width 65 is not a multiple of heads 4; give head_dim itself",
                      "model: heads 4 is not a multiple of kv_heads 3"}));
}

TEST(CrossCheck, RefusesLearningRatesThatCannotBeFollowed) {
  RunConfig c = sound();
  c.train.steps = 10;
  c.optimizer.warmup_steps = 20;
  c.optimizer.decay_steps = 15;
  c.optimizer.learning_rate = 1e-3;
  c.optimizer.min_learning_rate = 1e-2;
  EXPECT_EQ(cross_check(c),
            (Messages{"optimizer.warmup_steps 20 is more than train.steps 10",
                      "optimizer.min_learning_rate 0.01 is more than optimizer.learning_rate 0.001",
                      "optimizer.decay_steps 15 is less than optimizer.warmup_steps 20: the decay "
                      "would end before the warm-up"}));
}

TEST(CrossCheck, RefusesTimeoutsUnderWhichEveryHostLooksDead) {
  RunConfig c = sound();
  c.supervision.heartbeat_timeout = std::chrono::milliseconds(250);
  EXPECT_EQ(cross_check(c),
            Messages{"supervision.heartbeat_timeout 250ms is not longer than "
                     "supervision.heartbeat_interval 250ms: every host would look dead"});
}

TEST(CrossCheck, TheFinalDecayOfWsdMustFit) {
  RunConfig c = sound();
  c.optimizer.decay = Decay::kWsd;
  EXPECT_EQ(cross_check(c),
            Messages{"optimizer.decay_steps 0 with decay \"wsd\": must be at least 1 and with 20 "
                     "warm-up steps fit into train.steps 200"});
  c.optimizer.decay_steps = 180;
  EXPECT_EQ(cross_check(c), Messages{});
}

TEST(CrossCheck, PassesOnWhatTheSpikeDetectorSays) {
  RunConfig c = sound();
  c.spikes.recovery_samples = 65;
  EXPECT_EQ(cross_check(c), Messages{"spike options: recovery_samples must be in [1, window]"});
}

TEST(CrossCheck, RefusesMoreWorkersThanCanBeCounted) {
  RunConfig c = sound();
  c.layout.data_parallel = 1 << 14;
  c.layout.pipeline_parallel = 8;
  c.model.num_layers = 8;
  c.train.global_batch_size = 1 << 15;
  EXPECT_EQ(cross_check(c), Messages{"the layout has 131072 workers, at most 65536 are possible"});
}

TEST(CrossCheck, AHeldOutLossNeedsHeldOutText) {
  RunConfig c = sound();
  c.data.heldout_fraction = 0;
  EXPECT_EQ(cross_check(c), Messages{"train.eval_interval 50 asks for a held-out loss, but "
                                     "data.heldout_fraction is 0; set one of them"});
  c.train.eval_interval = 0;
  EXPECT_EQ(cross_check(c), Messages{});
}

TEST(CrossCheck, AsksForTextAndForTheFilesOfATokenizer) {
  RunConfig c = sound();
  c.data.text.clear();
  c.data.tokenizer = TokenizerKind::kGpt2;
  EXPECT_EQ(cross_check(c),
            (Messages{"data.text is empty: there is nothing to train on",
                      "data.tokenizer \"gpt2\" needs data.gpt2_dir, the folder with encoder.json "
                      "and vocab.bpe"}));
}

}  // namespace
}  // namespace tenax::configs
