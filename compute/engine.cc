#include "compute/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <numeric>
#include <utility>

#include "common/check.h"
#include "compute/collectives.h"
#include "compute/cuda_device.h"
#include "compute/engine_tags.h"
#include "compute/stage_layout.h"
#include "compute/tensor_norm.h"

namespace tenax::compute {

namespace {

constexpr int kNoBlock = -1;

/// The layer that a tensor belongs to.
int block_of(const std::string& name) {
  constexpr std::string_view kPrefix = "layers.";
  int layer = kNoBlock;
  if (name.starts_with(kPrefix))
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
  return layer;
}

/// A stage as one of the ranks that share its matrices holds it.
StageSpec stage_part(const EngineOptions& options, std::size_t stage, int tensor_rank) {
  StageSpec spec = options.stages[stage];
  spec.tensor = {std::max(static_cast<int>(options.tp_group.size()), 1), tensor_rank};
  return spec;
}

/// A virtual stage's tensors that no earlier one holds, nor an earlier rank of the same.
std::vector<std::size_t> own_tensors(const EngineOptions& options, std::size_t stage,
                                     int tensor_rank, std::size_t* count) {
  const auto parameters =
      lay_out_stage(resolved(options.model), stage_part(options, stage, tensor_rank)).parameters;
  *count = parameters.size();
  std::vector<std::size_t> own;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (stage > 0 && parameters[i].spec.name == kTokenEmbedding) continue;
    if (parameters[i].held.first) own.push_back(i);
  }
  return own;
}

VerdictShape verdict_shape(const EngineOptions& options) {
  VerdictShape shape;
  for (const MicrobatchRange& range : options.ranges) {
    shape.max_microbatches =
        std::max(shape.max_microbatches, static_cast<std::size_t>(range.size()));
  }
  for (std::size_t r = 0; r < options.replicas.size(); ++r) {
    shape.losses.push_back(
        {options.replicas[r].back(), static_cast<std::size_t>(options.ranges[r].size())});
  }
  // Tensors of the virtual stages in the model's order; a rank counts those of its chunks in a row.
  const std::size_t num_ranks = options.replicas.front().size();
  std::map<int, std::size_t> counted;
  for (std::size_t v = 0; v < options.stages.size(); ++v) {
    const std::size_t s = v % num_ranks;
    const std::vector<int> ranks = options.tensor_groups.empty()
                                       ? std::vector<int>{options.replicas.front()[s]}
                                       : options.tensor_groups[s];
    std::vector<std::vector<std::size_t>> own;
    std::size_t count = 0;
    for (std::size_t t = 0; t < ranks.size(); ++t)
      own.push_back(own_tensors(options, v, static_cast<int>(t), &count));
    // A tensor's parts before the next tensor, so that the split into stages changes no order.
    for (std::size_t tensor = 0; tensor < count; ++tensor) {
      for (std::size_t t = 0; t < ranks.size(); ++t) {
        if (std::ranges::binary_search(own[t], tensor))
          shape.norms.push_back({ranks[t], {counted[ranks[t]] + tensor}});
      }
    }
    for (const int rank : ranks) {
      counted[rank] += count;
      shape.max_tensors = std::max(shape.max_tensors, counted[rank]);
    }
  }
  return shape;
}

}  // namespace

Engine::Engine(EngineOptions options)
    : options_(std::move(options)),
      device_(options_.settings.cuda ? std::shared_ptr<Device>(options_.settings.cuda)
                                     : std::make_shared<HostDevice>(options_.settings.num_threads)),
      staging_(device_) {}

Result<std::unique_ptr<Engine>> Engine::create(EngineOptions options) {
  std::unique_ptr<Engine> engine(new Engine(std::move(options)));
  const EngineOptions& o = engine->options_;
  TENAX_RETURN_IF_ERROR(engine->agree_on_batch());
  try {
    TENAX_RETURN_IF_ERROR(engine->build_chunks());
    TENAX_RETURN_IF_ERROR(engine->build_buffers());
  } catch (const std::bad_alloc&) {
    return make_error(ErrorCode::kNoSpace,
                      fmt::format("rank {}: not enough memory for {} parameters", o.rank,
                                  engine->values_.size()));
  }
  engine->plan_updates();
  return engine;
}

Status Engine::agree_on_batch() {
  const EngineOptions& o = options_;
  TreeReduceOptions reduce;
  reduce.ranges = o.ranges;
  reduce.num_microbatches = o.num_microbatches;
  reduce.index = o.replica;
  reduce.trace = o.trace;
  TENAX_TRY(TreeReducer reducer, TreeReducer::create(reduce));
  if (!device_->host_visible())
    device_reducer_ = std::make_unique<DeviceTreeReducer>(device_, std::move(reduce));
  reducer_ = std::make_unique<TreeReducer>(std::move(reducer));
  verdicts_ = std::make_unique<VerdictExchange>(o.world_size, o.rank, verdict_shape(o));
  const auto mine = static_cast<std::size_t>(o.ranges[static_cast<std::size_t>(o.replica)].size());
  loss_sums_.resize(mine);
  target_counts_.resize(mine);
  return {};
}

Status Engine::set_batch(Batch batch) {
  TENAX_CHECK(batch.ranges.size() == options_.ranges.size());
  options_.ranges = std::move(batch.ranges);
  options_.num_microbatches = batch.num_microbatches;
  options_.schedule = std::move(batch.schedule);
  TENAX_RETURN_IF_ERROR(agree_on_batch());
  for (Chunk& chunk : chunks_) TENAX_RETURN_IF_ERROR(build_accumulator(chunk));
  const MicrobatchRange range = options_.ranges[static_cast<std::size_t>(options_.replica)];
  try {
    plan_reductions();
  } catch (const std::bad_alloc&) {
    return make_error(ErrorCode::kNoSpace,
                      fmt::format("rank {}: no memory for the sums of {} microbatches",
                                  options_.rank, range.size()));
  }
  if (keeps_sample_losses()) {
    sample_losses_.resize(static_cast<std::size_t>(range.size()) *
                          static_cast<std::size_t>(options_.shape.microbatch_size));
  }
  return {};
}

Status Engine::build_accumulator(Chunk& chunk) {
  const MicrobatchRange range = options_.ranges[static_cast<std::size_t>(options_.replica)];
  chunk.accumulator.reset();
  auto made = TreeAccumulator::create(device_, chunk.stage->gradient_size(), range);
  if (!made) {
    return made.error().within(
        fmt::format("rank {}: the sums of {} microbatches", options_.rank, range.size()));
  }
  chunk.accumulator = *std::move(made);
  return {};
}

Status Engine::build_chunks() {
  const EngineOptions& o = options_;
  StageSettings settings = o.settings;
  settings.trace = o.trace;
  if (o.tp_group.size() > 1) {
    const std::int64_t rows = std::int64_t{o.shape.microbatch_size} * o.shape.sequence_length;
    tensor_group_ =
        std::make_unique<TensorGroup>(o.tp_group, o.tensor_rank, rows, o.model.width, device_);
    tensor_group_->set_trace(o.trace);
    settings.tensor_group = tensor_group_.get();
  }
  std::vector<std::size_t> sizes;
  for (auto v = static_cast<std::size_t>(o.stage); v < o.stages.size(); v += o.pp_group.size()) {
    TENAX_TRY(const StageMemory plan,
              plan_stage_memory(o.model, stage_part(o, v, o.tensor_rank), o.shape, settings));
    sizes.push_back(static_cast<std::size_t>(plan.values) / sizeof(float));
  }
  TENAX_TRY(values_,
            device_->allocate(std::accumulate(sizes.begin(), sizes.end(), std::size_t{0})));
  std::vector<int> num_slots(sizes.size(), 1);
  for (const Action& a : o.schedule) {
    int& slots = num_slots[static_cast<std::size_t>(a.chunk)];
    slots = std::max(slots, a.slot + 1);
  }
  std::size_t values_base = 0;
  std::size_t gradient_base = 0;
  for (std::size_t c = 0; c < sizes.size(); ++c) {
    Chunk chunk;
    chunk.virtual_stage = c * o.pp_group.size() + static_cast<std::size_t>(o.stage);
    chunk.first_parameter = parameters_.size();
    chunk.values_base = values_base;
    chunk.gradient_base = gradient_base;
    settings.values = values_.span().subspan(values_base, sizes[c]);
    TENAX_TRY(chunk.stage, Stage::create(o.model, stage_part(o, chunk.virtual_stage, o.tensor_rank),
                                         o.shape, num_slots[c], settings));
    values_base += sizes[c];
    gradient_base += chunk.stage->gradient_size();
    chunk.backward_order =
        lay_out_stage(resolved(o.model), stage_part(o, chunk.virtual_stage, o.tensor_rank))
            .backward_order;
    adopt_parameters(chunk);
    chunks_.push_back(std::move(chunk));
  }
  return {};
}

void Engine::adopt_parameters(const Chunk& chunk) {
  for (StageParameter p : chunk.stage->parameters()) {
    p.offset += static_cast<std::int64_t>(chunk.values_base);
    for (GradientPart& part : p.gradients)
      part.offset += static_cast<std::int64_t>(chunk.gradient_base);
    parameters_.push_back(std::move(p));
  }
}

Status Engine::build_buffers() {
  const EngineOptions& o = options_;
  const MicrobatchRange range = o.ranges[static_cast<std::size_t>(o.replica)];
  std::size_t num_gradients = 0;
  for (Chunk& chunk : chunks_) {
    num_gradients += chunk.stage->gradient_size();
    TENAX_RETURN_IF_ERROR(build_accumulator(chunk));
    const std::size_t boundary = chunk.stage->boundary_size();
    const bool first = chunk.virtual_stage == 0;
    const bool last = chunk.virtual_stage + 1 == o.stages.size();
    if (!first) chunk.inbox_forward.on_host = AlignedBuffer(boundary);
    if (!last) chunk.inbox_backward.on_host = AlignedBuffer(boundary);
    for (int i = 0; i < o.num_outboxes; ++i) {
      if (!last) chunk.forward_boxes.push_back({{AlignedBuffer(boundary), {}}});
      if (!first) chunk.backward_boxes.push_back({{AlignedBuffer(boundary), {}}});
    }
  }
  std::vector<std::size_t> first_parameters;
  for (const Chunk& chunk : chunks_) first_parameters.push_back(chunk.first_parameter);
  first_parameters.push_back(parameters_.size());
  shards_ = shard_optimizer(parameters_, first_parameters,
                            o.zero > 0 ? static_cast<int>(o.dp_group.size()) : 1);
  TENAX_TRY(m_, device_->allocate(moments_size(moments())));
  TENAX_TRY(v_, device_->allocate(moments_size(moments())));
  TENAX_TRY(reduced_, device_->allocate(num_gradients));

  std::size_t tied = 0;
  std::size_t packed = 0;
  std::size_t longest = 0;
  first_chunk_.push_back(0);
  for (const StageParameter& p : parameters_) {
    const auto size = static_cast<std::size_t>(p.size);
    first_chunk_.push_back(first_chunk_.back() + num_norm_chunks(size));
    if (p.gradients.size() == 1 && p.gradients.front().kind != GradientPartKind::kWhole)
      tied = std::max(tied, size);
    if (num_addends(p) > 1) longest = std::max(longest, size);
    if (num_addends(p) > 1 && p.spec.split == TensorSplit::kSum) packed += size;
  }
  plan_reductions();
  tied_ = AlignedBuffer(tied);
  partial_sums_ = std::make_unique<OrderedReducer>(
      std::max(packed, longest), std::max(static_cast<int>(o.tp_group.size()), 1));
  if (packed > 0) {
    TENAX_TRY(partial_, device_->allocate(packed));
  }
  part_bytes_.resize(o.dp_group.size() + 1);
  chunk_squares_.resize(first_chunk_.back());
  square_sums_.resize(parameters_.size());
  for (const MomentPiece& piece : moments()) {
    const StageParameter& p = parameters()[piece.parameter];
    const auto n = static_cast<std::size_t>(piece.end - piece.begin);
    const std::size_t first =
        first_chunk_[piece.parameter] + static_cast<std::size_t>(piece.begin) / kNormChunk;
    norm_ranges_.push_back(
        {reduced_.span().subspan(static_cast<std::size_t>(p.gradients.front().offset + piece.begin),
                                 n),
         std::span(chunk_squares_).subspan(first, num_norm_chunks(n))});
  }
  if (keeps_sample_losses())
    sample_losses_.resize(static_cast<std::size_t>(range.size()) *
                          static_cast<std::size_t>(options_.shape.microbatch_size));
  return {};
}

Status Engine::use(DevicePeers* peers, const NeighbourPeers& neighbours) {
  peers_ = peers;
  neighbours_ = neighbours;
  if (tensor_group_) tensor_group_->use(peers);
  for (Chunk& chunk : chunks_) {
    chunk.stage->take_boundaries_on_device(neighbours.any());
    std::vector<Boundary*> all = {&chunk.inbox_forward, &chunk.inbox_backward};
    for (auto* const boxes : {&chunk.forward_boxes, &chunk.backward_boxes})
      for (Outbox& box : *boxes) {
        box.link = nullptr;
        all.push_back(&box.buffer);
      }
    for (Boundary* boundary : all) {
      const std::size_t size = boundary->on_host.size();
      if (!neighbours.any() || size == 0 || boundary->on_device.size() > 0) continue;
      TENAX_TRY(boundary->on_device, device_->allocate(size));
    }
  }
  return {};
}

void Engine::initialise(std::uint64_t seed) {
  for (Chunk& chunk : chunks_) chunk.stage->initialise(seed);
  device_->zero(m_.span());
  device_->zero(v_.span());
}

VerdictPart Engine::verdict_part() const {
  VerdictPart part;
  if (spec(chunks_.back()).has_head) {
    part.loss_sums = loss_sums_;
    part.target_counts = target_counts_;
  }
  part.square_sums = square_sums_;
  return part;
}

Result<Verdict> Engine::exchange_verdict(Communicator& comm, const VerdictPart& part) {
  return verdicts_->run(comm, kVerdictTag, part);
}

void Engine::plan_updates() {
  for (const MomentPiece& piece : moments()) {
    const StageParameter& p = parameters()[piece.parameter];
    const UpdateRule rule = update_rule(p.spec, options_.adamw.weight_decay, options_.groups);
    // The host's layers are apart in traces; a GPU is given all at once.
    const int block = device_->host_visible() ? block_of(p.spec.name) : -1;
    auto call = std::ranges::find_if(updates_, [&](const UpdateCall& c) {
      return c.block == block && c.rule.learning_rate_factor == rule.learning_rate_factor &&
             (rule.weight_decay == 0 || c.rule.weight_decay == 0 ||
              c.rule.weight_decay == rule.weight_decay);
    });
    if (call == updates_.end()) {
      updates_.push_back({block, rule, {}});
      call = updates_.end() - 1;
    }
    call->rule.weight_decay = std::max(call->rule.weight_decay, rule.weight_decay);
    const auto n = static_cast<std::size_t>(piece.end - piece.begin);
    const auto moment = static_cast<std::size_t>(piece.offset);
    AdamwRange range;
    range.values = values().subspan(static_cast<std::size_t>(p.offset + piece.begin), n);
    range.gradient = reduced_.span().subspan(
        static_cast<std::size_t>(p.gradients.front().offset + piece.begin), n);
    range.m = m_.span().subspan(moment, n);
    range.v = v_.span().subspan(moment, n);
    range.decay = rule.weight_decay > 0;
    call->ranges.push_back(range);
  }
}

void Engine::apply_update(const Update& u) {
  double scale = 1.0 / static_cast<double>(u.targets);
  if (u.clip_norm > 0 && u.grad_norm > u.clip_norm) scale *= u.clip_norm / u.grad_norm;
  AdamwStep update;
  update.step = u.step;
  update.gradient_scale = scale;
  for (const UpdateCall& call : updates_) {
    const KernelSpan span(options_.trace, TraceKind::kAdamw, call.block);
    AdamwOptions adamw = options_.adamw;
    adamw.weight_decay = call.rule.weight_decay;
    update.learning_rate = u.learning_rate * call.rule.learning_rate_factor;
    device_->adamw(adamw, update, call.ranges);
  }
}

Result<double> Engine::evaluate(Communicator& comm, std::span<const Microbatch> mine,
                                const PipelineSchedule& schedule, int num_microbatches) {
  const int replicas = static_cast<int>(options_.replicas.size());
  const int most = (num_microbatches + replicas - 1) / replicas;
  std::vector<double> sums(static_cast<std::size_t>(2 * most), 0.0);
  TENAX_RETURN_IF_ERROR(
      run_schedule(comm, schedule, mine, false, [&](std::int32_t mb, const LossSum& loss) {
        sums[static_cast<std::size_t>(2 * mb)] = loss.sum;
        sums[static_cast<std::size_t>(2 * mb + 1)] = static_cast<double>(loss.targets);
      }));
  std::vector<int> world(static_cast<std::size_t>(options_.world_size));
  std::iota(world.begin(), world.end(), 0);
  std::vector<double> all(sums.size() * world.size());
  TENAX_RETURN_IF_ERROR(all_gather(comm, {world, options_.rank}, kEvaluateTag,
                                   std::as_bytes(std::span(sums)),
                                   std::as_writable_bytes(std::span(all))));
  double loss = 0;
  double targets = 0;
  for (const std::vector<int>& replica : options_.replicas) {
    const double* block = all.data() + static_cast<std::size_t>(replica.back()) * sums.size();
    for (int i = 0; i < most; ++i) {
      loss += block[2 * i];
      targets += block[2 * i + 1];
    }
  }
  return loss / targets;
}

}  // namespace tenax::compute
