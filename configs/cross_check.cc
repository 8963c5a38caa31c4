#include "configs/cross_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "compute/parameter_groups.h"
#include "compute/tensor_part.h"
#include "configs/duration_text.h"
#include "configs/model_keys.h"
#include "data/batch_ramp.h"
#include "data/blend.h"

namespace tenax::configs {

namespace {

constexpr std::int64_t kBytesVocabulary = 257;
constexpr std::int64_t kGpt2Vocabulary = 50257;

using Found = std::vector<Contradiction>;

std::int64_t expected_vocabulary(const DataSection& data) {
  switch (data.tokenizer) {
    case TokenizerKind::kBytes:
      return kBytesVocabulary;
    case TokenizerKind::kGpt2:
      return kGpt2Vocabulary;
    case TokenizerKind::kBpe:
      return data.vocabulary_size;
  }
  return data.vocabulary_size;
}

void check_blend(const RunConfig& c, Found& found) {
  if (!c.data.text.empty() && !c.data.blend.empty()) {
    found.push_back({{"data.text", "data.blend"},
                     "data.text and data.blend are both given; a blend names all its corpora"});
  }
  for (const std::string& text : c.data.blend) {
    if (const auto part = data::parse_blend_part(text); !part)
      found.push_back({{"data.blend"}, "data.blend: " + part.error().message});
  }
  constexpr std::size_t kMostCorpora = 100;
  if (c.data.blend.size() > kMostCorpora) {
    found.push_back({{"data.blend"},
                     fmt::format("data.blend has {} corpora, at most {} are possible",
                                 c.data.blend.size(), kMostCorpora)});
  }
}

void check_data(const RunConfig& c, Found& found) {
  if (c.data.text.empty() && c.data.blend.empty()) {
    found.push_back({{"data.text"}, "data.text is empty: there is nothing to train on"});
  }
  check_blend(c, found);
  if (c.data.tokenizer == TokenizerKind::kGpt2 && c.data.gpt2_dir.empty()) {
    found.push_back(
        {{"data.tokenizer", "data.gpt2_dir"},
         "data.tokenizer \"gpt2\" needs data.gpt2_dir, the folder with encoder.json and "
         "vocab.bpe"});
  }
  if (c.data.heldout_fraction == 0 && c.train.eval_interval > 0) {
    found.push_back({{"data.heldout_fraction", "train.eval_interval"},
                     fmt::format("train.eval_interval {} asks for a held-out loss, but "
                                 "data.heldout_fraction is 0; set one of them",
                                 c.train.eval_interval)});
  }
}

void check_ramp(const RunConfig& c, Found& found) {
  const TrainSection& t = c.train;
  const auto ramp = data::batch_ramp(t.batch_ramp, t.global_batch_size);
  if (!ramp) {
    found.push_back({{"train.batch_ramp"}, "train.batch_ramp: " + ramp.error().message});
    return;
  }
  const std::int64_t together = c.layout.data_parallel * t.microbatch_size;
  for (std::size_t i = 0; i + 1 < ramp->size(); ++i) {
    const std::int64_t size = (*ramp)[i].size;
    if (size > t.global_batch_size) {
      found.push_back(
          {{"train.batch_ramp", "train.global_batch_size"},
           fmt::format("train.batch_ramp: \"{}\" is more than train.global_batch_size {}",
                       t.batch_ramp[i], t.global_batch_size)});
    } else if (size % together != 0) {
      found.push_back(
          {{"train.batch_ramp", "layout.data_parallel", "train.microbatch_size"},
           fmt::format(
               "train.batch_ramp: {} of \"{}\" is not a multiple of layout.data_parallel {} "
               "x train.microbatch_size {}",
               size, t.batch_ramp[i], c.layout.data_parallel, t.microbatch_size)});
    }
  }
}

void check_layout(const RunConfig& c, Found& found) {
  const LayoutSection& l = c.layout;
  const std::pair<const char*, std::int64_t> unbuilt[] = {
      {"layout.context_parallel", l.context_parallel},
      {"layout.expert_parallel", l.expert_parallel}};
  for (const auto& [key, degree] : unbuilt) {
    if (degree == 1) continue;
    found.push_back({{key},
                     fmt::format("{} = {} is not built yet: only data, tensor and pipeline "
                                 "parallelism are",
                                 key, degree)});
  }
  const auto model = model_options(c, expected_vocabulary(c.data));
  if (compute::problems(model).empty()) {
    for (const std::string& problem :
         compute::tensor_problems(model, static_cast<int>(l.tensor_parallel))) {
      found.push_back({{"layout.tensor_parallel", "model", "data.vocabulary_size"},
                       fmt::format("layout.tensor_parallel {}: {}", l.tensor_parallel, problem)});
    }
  }
  if (l.zero > 1) {
    found.push_back({{"layout.zero"},
                     fmt::format("layout.zero = {} is not built yet: only ZeRO-1 is, the "
                                 "optimizer's state sharded over the replicas",
                                 l.zero)});
  }
  constexpr std::int64_t kMaxWorkers = 1 << 16;
  if (l.world_size() > kMaxWorkers) {
    found.push_back({{"layout"},
                     fmt::format("the layout has {} workers, at most {} are possible",
                                 l.world_size(), kMaxWorkers)});
  }
  if (l.pipeline_parallel > c.model.num_layers) {
    found.push_back(
        {{"layout.pipeline_parallel", "model.layers"},
         fmt::format("layout.pipeline_parallel {} is more than model.layers {}: a stage "
                     "needs at least one layer",
                     l.pipeline_parallel, c.model.num_layers)});
  } else if (l.pipeline_parallel * l.virtual_stages > c.model.num_layers) {
    found.push_back(
        {{"layout.virtual_stages", "layout.pipeline_parallel", "model.layers"},
         fmt::format("layout.virtual_stages {} x layout.pipeline_parallel {} is more than "
                     "model.layers {}: a virtual stage needs at least one layer",
                     l.virtual_stages, l.pipeline_parallel, c.model.num_layers)});
  }
  if (l.virtual_stages > 1 && l.pipeline_parallel == 1) {
    found.push_back({{"layout.virtual_stages", "layout.pipeline_parallel"},
                     fmt::format("layout.virtual_stages {} needs layout.pipeline_parallel above 1",
                                 l.virtual_stages)});
  }
  if (l.virtual_stages > 1 && c.train.schedule == scheduler::ScheduleKind::kGpipe) {
    found.push_back({{"layout.virtual_stages", "train.schedule"},
                     fmt::format("layout.virtual_stages {} is built for train.schedule \"1f1b\", "
                                 "not for \"gpipe\"",
                                 l.virtual_stages)});
  }
  if (l.min_pipeline_parallel > l.pipeline_parallel) {
    found.push_back({{"layout.min_pipeline_parallel", "layout.pipeline_parallel"},
                     fmt::format("layout.min_pipeline_parallel {} is more than "
                                 "layout.pipeline_parallel {}",
                                 l.min_pipeline_parallel, l.pipeline_parallel)});
  }
  if (l.min_workers > l.world_size()) {
    found.push_back({{"layout.min_workers", "layout.data_parallel", "layout.pipeline_parallel"},
                     fmt::format("layout.min_workers {} is more than the {} workers of the layout",
                                 l.min_workers, l.world_size())});
  }
  if (l.world_size() % l.agents != 0) {
    found.push_back(
        {{"layout.agents", "layout.data_parallel", "layout.pipeline_parallel",
          "layout.tensor_parallel", "layout.context_parallel"},
         fmt::format("layout.agents {} does not divide the {} workers (data_parallel {} x "
                     "tensor_parallel {} x pipeline_parallel {})",
                     l.agents, l.world_size(), l.data_parallel, l.tensor_parallel,
                     l.pipeline_parallel)});
  }
  const TrainSection& t = c.train;
  const std::int64_t together = l.data_parallel * t.microbatch_size;
  if (t.global_batch_size % together != 0) {
    const std::int64_t below = t.global_batch_size / together * together;
    const std::string nearest =
        below > 0 ? fmt::format("{} or {}", below, below + together) : fmt::to_string(together);
    found.push_back(
        {{"train.global_batch_size", "layout.data_parallel", "train.microbatch_size"},
         fmt::format("train.global_batch_size {} is not a multiple of layout.data_parallel {} x "
                     "train.microbatch_size {} = {}; {} would do",
                     t.global_batch_size, l.data_parallel, t.microbatch_size, together, nearest)});
  }
}

void check_groups(const RunConfig& c, Found& found) {
  const auto model = model_options(c, expected_vocabulary(c.data));
  if (c.optimizer.groups.empty() || !compute::problems(model).empty()) return;
  const std::vector<compute::ParameterSpec> tensors = compute::model_parameters(model);
  for (const std::string& text : c.optimizer.groups) {
    const auto group = compute::parse_parameter_group(text);
    if (!group) {
      found.push_back({{"optimizer.groups"}, "optimizer.groups: " + group.error().message});
      continue;
    }
    const bool fits = std::ranges::any_of(tensors, [&](const compute::ParameterSpec& spec) {
      return compute::matches(group->pattern, spec.name);
    });
    if (!fits) {
      found.push_back(
          {{"optimizer.groups", "model"},
           fmt::format("optimizer.groups: no tensor of the model fits \"{}\" (names are "
                       "like {})",
                       group->pattern, tensors.back().name)});
    }
  }
}

void check_optimizer(const RunConfig& c, Found& found) {
  check_groups(c, found);
  const OptimizerSection& o = c.optimizer;
  if (o.warmup_steps > c.train.steps) {
    found.push_back({{"optimizer.warmup_steps", "train.steps"},
                     fmt::format("optimizer.warmup_steps {} is more than train.steps {}",
                                 o.warmup_steps, c.train.steps)});
  }
  if (o.min_learning_rate > o.learning_rate) {
    found.push_back({{"optimizer.min_learning_rate", "optimizer.learning_rate"},
                     fmt::format("optimizer.min_learning_rate {} is more than "
                                 "optimizer.learning_rate {}",
                                 o.min_learning_rate, o.learning_rate)});
  }
  if (o.decay == Decay::kWsd) {
    if (o.decay_steps < 1 || o.warmup_steps + o.decay_steps > c.train.steps) {
      found.push_back(
          {{"optimizer.decay_steps", "optimizer.warmup_steps", "train.steps"},
           fmt::format("optimizer.decay_steps {} with decay \"wsd\": must be at least 1 "
                       "and with {} warm-up steps fit into train.steps {}",
                       o.decay_steps, o.warmup_steps, c.train.steps)});
    }
  } else if (o.decay_steps > 0 && o.decay_steps < o.warmup_steps) {
    found.push_back({{"optimizer.decay_steps", "optimizer.warmup_steps"},
                     fmt::format("optimizer.decay_steps {} is less than optimizer.warmup_steps {}: "
                                 "the decay would end before the warm-up",
                                 o.decay_steps, o.warmup_steps)});
  }
}

void check_supervision(const RunConfig& c, Found& found) {
  const SupervisionSection& s = c.supervision;
  if (s.heartbeat_timeout <= s.heartbeat_interval) {
    found.push_back(
        {{"supervision.heartbeat_timeout", "supervision.heartbeat_interval"},
         fmt::format("supervision.heartbeat_timeout {} is not longer than "
                     "supervision.heartbeat_interval {}: every host would look dead",
                     format_duration(s.heartbeat_timeout), format_duration(s.heartbeat_interval))});
  }
}

void check_spikes(const RunConfig& c, Found& found) {
  if (const Status status = scheduler::validate(c.spikes); !status) {
    found.push_back({{"spikes"}, status.error().message});
  }
}

void check_faults(const RunConfig& c, Found& found) {
  const FaultsSection& f = c.faults;
  const bool used = f.weight_step > 0 || f.gradient_step > 0 || f.nan_step > 0 || f.hang_step > 0 ||
                    f.gpu_step > 0;
  if (used && f.rank >= c.layout.world_size()) {
    found.push_back(
        {{"faults.rank", "layout"},
         fmt::format("faults.rank {} is not one of the {} ranks", f.rank, c.layout.world_size())});
  }
  if (f.gpu_step > 0 && c.train.device != ComputeDevice::kCuda) {
    found.push_back({{"faults.gpu_step", "train.device"},
                     fmt::format("faults.gpu_step {} is a fault of a GPU and needs train.device = "
                                 "\"cuda\"",
                                 f.gpu_step)});
  }
}

void check_model(const RunConfig& c, Found& found) {
  const auto model = model_options(c, expected_vocabulary(c.data));
  for (const std::string& problem : compute::problems(model)) {
    found.push_back({{"model", "train.sequence_length", "data.vocabulary_size"},
                     "model: " + with_model_keys(problem, "train.sequence_length")});
  }
}

}  // namespace

std::vector<Contradiction> find_contradictions(const RunConfig& config) {
  Found found;
  check_data(config, found);
  check_model(config, found);
  check_layout(config, found);
  check_ramp(config, found);
  check_optimizer(config, found);
  check_supervision(config, found);
  check_spikes(config, found);
  check_faults(config, found);
  return found;
}

std::vector<std::string> cross_check(const RunConfig& config) {
  std::vector<std::string> messages;
  for (Contradiction& c : find_contradictions(config)) messages.push_back(std::move(c.message));
  return messages;
}

}  // namespace tenax::configs
