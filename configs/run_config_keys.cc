// The table of a run's keys: name, member, meaning, range. Everything else about keys (reading,
// --help, docs/config.md, canonical text) comes from here.
#include <fmt/format.h>

#include "configs/fault_keys.h"
#include "configs/model_keys.h"
#include "configs/run_config.h"
#include "configs/spike_keys.h"

namespace tenax::configs {

namespace {

constexpr Changeable kMayChange = Changeable::kYes;
constexpr double kMaxSteps = 1e12;
// Positions are counted in 64 bits: kMaxSteps of the largest batch must fit.
constexpr double kMaxBatch = 1 << 20;

void bind_run(Binder& b, RunSection& c) {
  b.add("run.name", c.name, {.doc = "Name of the run, shown on the terminal and the dashboard."});
  b.add("run.seed", c.seed,
        {.doc = "Decides initial weights and the order of samples.", .range = at_least(0)});
  b.add("run.time_scale", c.time_scale,
        {.doc = "Stretches every timeout; above 1 for slow machines and sanitizers.",
         .range = between(0.01, 1000),
         .changeable = kMayChange});
}

void bind_data(Binder& b, DataSection& c) {
  b.add("data.text", c.text,
        {.doc = "Documents: file patterns relative to the recipe's folder; ** crosses folders."});
  b.add("data.heldout_fraction", c.heldout_fraction,
        {.doc = "Share of the tokens that is never trained and gives the held-out loss.",
         .range = from_to_below(0, 1)});
  b.add_enum("data.tokenizer", c.tokenizer,
             {{"bytes", TokenizerKind::kBytes},
              {"bpe", TokenizerKind::kBpe},
              {"gpt2", TokenizerKind::kGpt2}},
             {.doc = "Bytes; a BPE trained on the documents; GPT-2's BPE."});
  b.add("data.vocabulary_size", c.vocabulary_size,
        {.doc = "Tokens of a BPE trained on the documents.", .range = between(257, 1 << 24)});
  b.add(
      "data.gpt2_dir", c.gpt2_dir,
      {.doc = "Folder with GPT-2's encoder.json and vocab.bpe, relative to the recipe's folder."});
  b.add("data.blend", c.blend,
        {.doc = "In place of text: corpora with their weights, \"0.7 wiki/**/*.txt\" each; every "
                "1000 samples hold each in its share."});
  b.add_enum(
      "data.packing", c.packing,
      {{"concatenate", data::Packing::kConcatenate}, {"documents", data::Packing::kDocuments}},
      {.doc = "Tokens attend across the documents of a sample, or only inside their own, "
              "with positions from 0 in each."});
}

void bind_layout(Binder& b, LayoutSection& c) {
  const Range degree = between(1, 1 << 14);
  b.add("layout.data_parallel", c.data_parallel, {.doc = "Replicas.", .range = degree});
  b.add("layout.tensor_parallel", c.tensor_parallel,
        {.doc = "Ranks that share each matrix, and the rows of the residual stream between the "
                "matrices.",
         .range = degree});
  b.add("layout.pipeline_parallel", c.pipeline_parallel,
        {.doc = "Pipeline stages.", .range = degree});
  b.add("layout.context_parallel", c.context_parallel,
        {.doc = "Ranks that share each sequence; 1 for now.", .range = degree});
  b.add("layout.expert_parallel", c.expert_parallel,
        {.doc = "Ranks that share the experts; 1 for now.", .range = degree});
  b.add("layout.virtual_stages", c.virtual_stages,
        {.doc = "Chunks of layers that each pipeline rank holds; above 1: interleaved 1F1B.",
         .range = degree});
  b.add("layout.zero", c.zero,
        {.doc = "ZeRO stage: 0 copies AdamW's state on every replica, 1 shards it over them.",
         .range = between(0, 3)});
  b.add("layout.agents", c.agents,
        {.doc = "Agents to start on this machine; each plays a host.", .range = degree});
  b.add("layout.spares", c.spares,
        {.doc = "Workers kept up beside those that train, to take a lost one's place at once.",
         .range = between(0, 1 << 14)});
  b.add("layout.min_workers", c.min_workers,
        {.doc = "When workers are lost for good the run goes on with fewer, but not fewer than "
                "these.",
         .range = degree,
         .changeable = kMayChange});
  b.add("layout.min_pipeline_parallel", c.min_pipeline_parallel,
        {.doc = "Fewest stages that the model may be merged into when workers are lost.",
         .range = degree,
         .changeable = kMayChange});
  b.add("layout.threads_per_worker", c.threads_per_worker,
        {.doc = "Threads that each worker computes with; the same bits for any number.",
         .range = between(1, 1024),
         .changeable = kMayChange});
}

void bind_train(Binder& b, TrainSection& c) {
  b.add("train.steps", c.steps,
        {.doc = "Optimizer steps of the run.",
         .unit = "steps",
         .range = between(1, kMaxSteps),
         .changeable = kMayChange});
  b.add("train.sequence_length", c.sequence_length,
        {.doc = "Tokens of a sample.", .unit = "tokens", .range = between(1, 1 << 24)});
  b.add("train.global_batch_size", c.global_batch_size,
        {.doc = "Samples of a step, over all replicas.",
         .unit = "samples",
         .range = between(1, kMaxBatch)});
  b.add("train.batch_ramp", c.batch_ramp,
        {.doc = "Smaller batches before global_batch_size: steps and samples, \"50 x 4\" each, one "
                "after the other."});
  b.add("train.microbatch_size", c.microbatch_size,
        {.doc = "Samples that go through a stage at once.",
         .unit = "samples",
         .range = between(1, kMaxBatch)});
  b.add_enum("train.schedule", c.schedule,
             {{"1f1b", scheduler::ScheduleKind::kOneForwardOneBackward},
              {"gpipe", scheduler::ScheduleKind::kGpipe}},
             {.doc = "Pipeline schedule."});
  b.add_enum(
      "train.device", c.device,
      {{"auto", ComputeDevice::kAuto},
       {"cpu", ComputeDevice::kCpu},
       {"cuda", ComputeDevice::kCuda}},
      {.doc = "What workers compute on. auto is the CPU: the GPU engine has never run on a GPU "
              "yet and is only used when it is asked for."});
  b.add_enum("train.precision", c.precision,
             {{"fp32", compute::Precision::kFp32}, {"bf16", compute::Precision::kBf16}},
             {.doc = "Factors of matrix products; weights, sums and optimizer are fp32 always."});
  b.add_enum("train.recompute", c.recompute,
             {{"none", compute::Recompute::kNone},
              {"selective", compute::Recompute::kSelective},
              {"full", compute::Recompute::kFull}},
             {.doc = "Activations that backward computes anew instead of keeping them; the same "
                     "bits.",
              .changeable = kMayChange});
  const auto dropout = [&](std::string_view name, double& rate, std::string_view doc) {
    b.add(fmt::format("train.dropout_{}", name), rate, {.doc = doc, .range = from_to_below(0, 1)});
  };
  dropout("embedding", c.dropout.embedding,
          "Dropout of what enters the first layer; off in evaluation.");
  dropout("attention", c.dropout.attention, "Dropout of attention probabilities.");
  dropout("residual", c.dropout.residual, "Dropout of the outputs of attention and feed-forward.");
  b.add("train.eval_interval", c.eval_interval,
        {.doc = "Held-out loss after every so many steps; 0: never.",
         .unit = "steps",
         .range = between(0, kMaxSteps),
         .changeable = kMayChange});
  b.add("train.eval_samples", c.eval_samples,
        {.doc = "Held-out samples of an evaluation.",
         .unit = "samples",
         .range = between(1, kMaxBatch),
         .changeable = kMayChange});
}

void bind_optimizer(Binder& b, OptimizerSection& c) {
  b.add("optimizer.learning_rate", c.learning_rate,
        {.doc = "AdamW's learning rate after the warm-up.",
         .range = above(0),
         .changeable = kMayChange});
  b.add("optimizer.min_learning_rate", c.min_learning_rate,
        {.doc = "Learning rate at the end of the decay.",
         .range = at_least(0),
         .changeable = kMayChange});
  b.add("optimizer.warmup_steps", c.warmup_steps,
        {.doc = "The learning rate rises from 0 over so many steps.",
         .unit = "steps",
         .range = between(0, kMaxSteps),
         .changeable = kMayChange});
  b.add_enum("optimizer.decay", c.decay,
             {{"constant", Decay::kConstant},
              {"linear", Decay::kLinear},
              {"cosine", Decay::kCosine},
              {"inverse_sqrt", Decay::kInverseSqrt},
              {"wsd", Decay::kWsd}},
             {.doc = "Course of the learning rate after the warm-up."});
  b.add("optimizer.decay_steps", c.decay_steps,
        {.doc = "Step at which the decay ends, 0 means train.steps; of wsd, length of the decay.",
         .unit = "steps",
         .range = between(0, kMaxSteps),
         .changeable = kMayChange});
  b.add("optimizer.beta1", c.beta1,
        {.doc = "Decay of AdamW's first moment.", .range = from_to_below(0, 1)});
  b.add("optimizer.beta2", c.beta2,
        {.doc = "Decay of AdamW's second moment.", .range = from_to_below(0, 1)});
  b.add("optimizer.epsilon", c.epsilon,
        {.doc = "Added to the root of AdamW's second moment.", .range = above(0)});
  b.add("optimizer.weight_decay", c.weight_decay,
        {.doc = "AdamW's decoupled decay of matrices.", .range = at_least(0)});
  b.add("optimizer.groups", c.groups,
        {.doc = "Tensors with other rules, \"PATTERN: weight_decay=0, learning_rate_factor=0.5\" "
                "each; the first that fits a tensor's name decides."});
  b.add("optimizer.clip_norm", c.clip_norm,
        {.doc = "Largest global gradient norm; 0: no clipping.", .range = at_least(0)});
}

void bind_checkpoint(Binder& b, CheckpointSection& c) {
  b.add("checkpoint.interval", c.interval,
        {.doc = "A checkpoint after every so many steps; 0: only at the end.",
         .unit = "steps",
         .range = between(0, kMaxSteps),
         .changeable = kMayChange});
  b.add("checkpoint.keep_last", c.keep_last,
        {.doc = "So many newest checkpoints are kept.",
         .range = between(1, 1 << 20),
         .changeable = kMayChange});
  b.add("checkpoint.keep_every", c.keep_every,
        {.doc = "Checkpoints of steps divisible by this are kept for ever; 0: none.",
         .unit = "steps",
         .range = between(0, kMaxSteps),
         .changeable = kMayChange});
  b.add_enum("checkpoint.policy", c.policy,
             {{"skip", SlotPolicy::kSkip}, {"wait", SlotPolicy::kWait}},
             {.doc = "When the last checkpoint is still being written: skip this one, or wait.",
              .changeable = kMayChange});
  b.add_enum("checkpoint.compression", c.compression,
             {{"none", CompressionKind::kNone}, {"zstd", CompressionKind::kZstd}},
             {.doc = "How chunks are stored; zstd only where it makes them smaller, which weights "
                     "seldom allow.",
              .changeable = kMayChange});
  b.add("checkpoint.writer_threads", c.writer_threads,
        {.doc = "Threads of each agent that write a checkpoint.",
         .range = between(1, 64),
         .changeable = kMayChange});
  b.add("checkpoint.buddy_copies", c.buddy_copies,
        {.doc = "1: each agent keeps, in shared memory, copies of the slots of another one, from "
                "which a lost agent's workers restore. Takes as much memory as the slots.",
         .range = between(0, 1),
         .changeable = kMayChange});
}

void bind_supervision(Binder& b, SupervisionSection& c) {
  const auto timeout = [](std::string_view doc) {
    return FieldOptions{.doc = doc, .range = above(0), .changeable = kMayChange};
  };
  b.add("supervision.heartbeat_interval", c.heartbeat_interval,
        timeout("Between two heartbeats of an agent."));
  b.add("supervision.heartbeat_timeout", c.heartbeat_timeout,
        timeout("An agent silent for so long is dead."));
  b.add("supervision.supervisor_grace", c.supervisor_grace,
        timeout("Agents outlive a supervisor for so long."));
  b.add("supervision.collect_window", c.collect_window,
        timeout("Wait for simultaneous faults before replanning."));
  b.add("supervision.abort_timeout", c.abort_timeout,
        timeout("A worker that has not left its step by then is killed."));
  b.add("supervision.form_timeout", c.form_timeout,
        timeout("A new generation must have connected by then."));
  b.add("supervision.hang_timeout", c.hang_timeout,
        timeout("A run without a step for so long hangs, until the times of its steps are known."));
  b.add("supervision.hang_factor", c.hang_factor,
        {.doc = "Then a step hangs after so many times the longest of late, plus hang_slack; 0: "
                "always hang_timeout.",
         .range = between(0, 1e6),
         .changeable = kMayChange});
  b.add("supervision.hang_slack", c.hang_slack, timeout("See hang_factor."));
  b.add("supervision.integrity_interval", c.integrity_interval,
        {.doc = "Replicas compare hashes of what they hold after every so many steps; 0: only at "
                "checkpoints. With data_parallel 1 there is nothing to compare.",
         .unit = "steps",
         .range = between(0, kMaxSteps),
         .changeable = kMayChange});
  b.add("supervision.restart_intensity", c.restart_intensity,
        {.doc = "An agent is excluded after more restarts than this within restart_period; the run "
                "goes on with the others or gives up.",
         .range = between(0, 1 << 20),
         .changeable = kMayChange});
  b.add("supervision.restart_period", c.restart_period,
        timeout("Period in which restarts are counted."));
  b.add("supervision.exclusion_period", c.exclusion_period,
        timeout("An agent that failed more often than restart_intensity is not used for so long; "
                "doubles each time."));
  b.add("supervision.max_generations_without_progress", c.max_generations_without_progress,
        {.doc = "So many generations in a row without a counted step end the run.",
         .range = between(1, 1 << 20),
         .changeable = kMayChange});
}

void bind_network(Binder& b, NetworkSection& c) {
  b.add("network.hosts", c.hosts,
        {.doc = "Hosts of the agents, in their order, over and over; empty: all on this machine.",
         .changeable = kMayChange});
  b.add("network.agent_launcher", c.agent_launcher,
        {.doc = "Command that runs an agent on its host, such as [\"ssh\", \"{host}\"]; {host} and "
                "{agent} are filled in. The hosts share the run directory and the program's path.",
         .changeable = kMayChange});
  b.add("network.control_interface", c.control_interface,
        {.doc = "Where the supervisor listens for agents, encrypted: an address, a subnet or an "
                "interface of its host.",
         .changeable = kMayChange});
  b.add("network.control_port", c.control_port,
        {.doc = "Port it listens on; 0 takes a free one.",
         .range = between(0, 65535),
         .changeable = kMayChange});
  b.add("network.data_interface", c.data_interface,
        {.doc = "What tensors travel over, in plaintext: an address, a subnet or an interface of "
                "each host; beyond loopback it must be a trusted network.",
         .changeable = kMayChange});
}

void bind_dashboard(Binder& b, DashboardSection& c) {
  b.add("dashboard.enabled", c.enabled,
        {.doc = "Serve the status page.", .changeable = kMayChange});
  b.add("dashboard.host", c.host, {.doc = "Address to listen on.", .changeable = kMayChange});
  b.add("dashboard.port", c.port,
        {.doc = "Port to listen on; 0 takes a free one.",
         .range = between(0, 65535),
         .changeable = kMayChange});
}

void bind_generate(Binder& b, GenerateSection& c) {
  b.add("generate.tokens", c.tokens,
        {.doc = "Tokens of the sample at the end of the run; 0: none.",
         .unit = "tokens",
         .range = between(0, 1 << 20),
         .changeable = kMayChange});
  b.add("generate.prompt", c.prompt,
        {.doc = "What the sample goes on from.", .changeable = kMayChange});
  b.add(
      "generate.temperature", c.temperature,
      {.doc = "0 takes the likeliest token.", .range = between(0, 100), .changeable = kMayChange});
}

}  // namespace

Binder bind(RunConfig& config) {
  Binder b;
  bind_run(b, config.run);
  bind_data(b, config.data);
  b.add("model.card", config.model_card,
        {.doc = "Model card to start from (`tenax model list`) or a path to one, relative to the "
                "recipe's folder; other model keys override it."});
  bind_model(b, config.model);
  bind_layout(b, config.layout);
  bind_train(b, config.train);
  bind_optimizer(b, config.optimizer);
  bind_checkpoint(b, config.checkpoint);
  bind_spikes(b, config.spikes);
  bind_guard(b, config.guard);
  bind_faults(b, config.faults);
  bind_supervision(b, config.supervision);
  bind_network(b, config.network);
  bind_dashboard(b, config.dashboard);
  bind_generate(b, config.generate);
  return b;
}

}  // namespace tenax::configs
