#include "compute/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "common/check.h"
#include "compute/collectives.h"
#include "compute/stage_layout.h"
#include "compute/tensor_norm.h"

namespace tenax::compute {

namespace {

enum Tag : std::uint64_t {
  kForwardTag = 1ULL << 32,
  kBackwardTag = 2ULL << 32,
  kReduceTag = 3ULL << 32,
  kTiedTag = 4ULL << 32,
  kVerdictTag = 5ULL << 32,
  kEvaluateTag = 6ULL << 32,
  kStateTag = 7ULL << 32,
  kNormTag = 8ULL << 32,
  kWeightsTag = 9ULL << 32,
  kPartialTag = 10ULL << 32,
};

std::span<const std::byte> bytes_of(std::span<const float> f) { return std::as_bytes(f); }
std::span<std::byte> writable_bytes_of(std::span<float> f) { return std::as_writable_bytes(f); }

/// A stage as one of the ranks that share its matrices holds it.
StageSpec stage_part(const EngineOptions& options, std::size_t stage, int tensor_rank) {
  StageSpec spec = options.stages[stage];
  spec.tensor = {std::max(static_cast<int>(options.tp_group.size()), 1), tensor_rank};
  return spec;
}

/// A stage's tensors that no earlier stage holds, nor an earlier rank of the same stage.
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
  for (std::size_t s = 0; s < options.stages.size(); ++s) {
    const std::vector<int> ranks = options.tensor_groups.empty()
                                       ? std::vector<int>{options.replicas.front()[s]}
                                       : options.tensor_groups[s];
    for (std::size_t t = 0; t < ranks.size(); ++t) {
      std::size_t count = 0;
      VerdictShape::NormSource source{ranks[t],
                                      own_tensors(options, s, static_cast<int>(t), &count)};
      shape.max_tensors = std::max(shape.max_tensors, count);
      shape.norms.push_back(std::move(source));
    }
  }
  return shape;
}

/// The elements of a tensor that a member owns; none is {0, 0}.
std::pair<std::size_t, std::size_t> owned(std::span<const MomentPiece> pieces,
                                          std::size_t parameter) {
  for (const MomentPiece& piece : pieces) {
    if (piece.parameter == parameter)
      return {static_cast<std::size_t>(piece.begin), static_cast<std::size_t>(piece.end)};
  }
  return {0, 0};
}

const GradientPart* part_of(const StageParameter& p, GradientPartKind kind) {
  for (const GradientPart& part : p.gradients) {
    if (part.kind == kind) return &part;
  }
  return nullptr;
}

}  // namespace

Engine::Engine(EngineOptions options) : options_(std::move(options)) {}

Result<std::unique_ptr<Engine>> Engine::create(EngineOptions options) {
  std::unique_ptr<Engine> engine(new Engine(std::move(options)));
  const EngineOptions& o = engine->options_;
  StageSettings settings;
  if (o.tp_group.size() > 1) {
    const std::size_t stream = static_cast<std::size_t>(o.shape.microbatch_size) *
                               static_cast<std::size_t>(o.shape.sequence_length) *
                               static_cast<std::size_t>(o.model.width);
    engine->tensor_group_ = std::make_unique<TensorGroup>(o.tp_group, o.tensor_rank, stream);
    settings.tensor_group = engine->tensor_group_.get();
  }
  TENAX_TRY(engine->stage_,
            Stage::create(o.model, stage_part(o, static_cast<std::size_t>(o.stage), o.tensor_rank),
                          o.shape, o.num_slots, settings));
  const std::size_t num_values = engine->stage_->values().size();
  const std::size_t num_gradients = engine->stage_->gradient_size();
  const std::size_t boundary = engine->stage_->boundary_size();
  const MicrobatchRange range = o.ranges[static_cast<std::size_t>(o.replica)];
  engine->shards_ =
      shard_optimizer(engine->parameters(), o.zero > 0 ? static_cast<int>(o.dp_group.size()) : 1);
  try {
    engine->m_ = AlignedBuffer(moments_size(engine->moments()));
    engine->v_ = AlignedBuffer(moments_size(engine->moments()));
    engine->reduced_ = AlignedBuffer(num_gradients);
    const bool first = o.stage == 0;
    const bool last = o.stage + 1 == static_cast<int>(o.stages.size());
    if (!first) engine->inbox_forward_ = AlignedBuffer(boundary);
    if (!last) engine->inbox_backward_ = AlignedBuffer(boundary);
    for (int i = 0; i < 2; ++i) {
      if (!last) engine->forward_boxes_.push_back({AlignedBuffer(boundary), nullptr});
      if (!first) engine->backward_boxes_.push_back({AlignedBuffer(boundary), nullptr});
    }
    for (const StageParameter& p : engine->stage_->parameters()) {
      if (part_of(p, GradientPartKind::kWhole) == nullptr && p.gradients.size() == 1) {
        engine->tied_ = AlignedBuffer(static_cast<std::size_t>(p.size));
      }
    }
    std::size_t partial = 0;
    for (const StageParameter& p : engine->stage_->parameters()) {
      const int num_addends = std::max(p.held.end_addend - p.held.first_addend, 1);
      partial =
          std::max(partial, all_reduce_workspace(static_cast<std::size_t>(p.size), num_addends));
    }
    engine->addends_ = AlignedBuffer(partial);
    engine->accumulator_ = std::make_unique<TreeAccumulator>(num_gradients, range);
  } catch (const std::bad_alloc&) {
    return make_error(
        ErrorCode::kNoSpace,
        fmt::format("rank {}: not enough memory for {} parameters", o.rank, num_values));
  }
  TreeReduceOptions reduce;
  reduce.ranges = o.ranges;
  reduce.num_microbatches = o.num_microbatches;
  reduce.index = o.replica;
  TENAX_TRY(TreeReducer reducer, TreeReducer::create(std::move(reduce)));
  engine->reducer_ = std::make_unique<TreeReducer>(std::move(reducer));
  engine->parts_ = even_parts(num_gradients, static_cast<int>(o.dp_group.size()), kAlignFloats);
  engine->part_bytes_.resize(engine->parts_.size());
  engine->first_chunk_.push_back(0);
  for (const StageParameter& p : engine->parameters()) {
    engine->first_chunk_.push_back(engine->first_chunk_.back() +
                                   num_norm_chunks(static_cast<std::size_t>(p.size)));
  }
  engine->chunk_squares_.resize(engine->first_chunk_.back());
  engine->square_sums_.resize(engine->parameters().size());
  engine->verdicts_ = std::make_unique<VerdictExchange>(o.world_size, o.rank, verdict_shape(o));
  engine->loss_sums_.resize(static_cast<std::size_t>(range.size()));
  engine->target_counts_.resize(static_cast<std::size_t>(range.size()));
  return engine;
}

void Engine::initialise(std::uint64_t seed) {
  stage_->initialise(seed);
  std::fill(m_.span().begin(), m_.span().end(), 0.0F);
  std::fill(v_.span().begin(), v_.span().end(), 0.0F);
}

Result<std::span<float>> Engine::free_outbox(std::vector<Outbox>& boxes, std::size_t index) {
  Outbox& box = boxes[index % boxes.size()];
  if (box.transfer) TENAX_RETURN_IF_ERROR(std::exchange(box.transfer, nullptr)->wait());
  return box.buffer.span();
}

Status Engine::drain(std::vector<Outbox>& boxes) {
  for (Outbox& box : boxes) {
    if (box.transfer) TENAX_RETURN_IF_ERROR(std::exchange(box.transfer, nullptr)->wait());
  }
  return {};
}

Status Engine::run_schedule(Communicator& comm, const PipelineSchedule& schedule,
                            std::span<const Microbatch> microbatches, bool train,
                            const LossSink& on_loss) {
  if (tensor_group_) tensor_group_->use(comm);
  // Transfers left over from a failed step belong to a dead communicator.
  for (Outbox& box : forward_boxes_) box.transfer.reset();
  for (Outbox& box : backward_boxes_) box.transfer.reset();
  std::span<float> output;
  std::span<float> input_grad;
  for (const Action& action : schedule) {
    const auto mb = static_cast<std::size_t>(action.microbatch);
    switch (action.kind) {
      case ActionKind::kRecvForward:
        TENAX_RETURN_IF_ERROR(
            comm.recv(previous(), kForwardTag, writable_bytes_of(inbox_forward_.span()))->wait());
        break;
      case ActionKind::kForward: {
        if (!forward_boxes_.empty()) {
          TENAX_TRY(output, free_outbox(forward_boxes_, mb));
        }
        const Microbatch& batch = microbatches[mb];
        if (train) {
          stage_->forward(action.slot, batch.tokens, batch.targets, inbox_forward_.span(), output);
        } else {
          const LossSum loss =
              stage_->evaluate(batch.tokens, batch.targets, inbox_forward_.span(), output);
          on_loss(action.microbatch, loss);
        }
        if (tensor_group_) TENAX_RETURN_IF_ERROR(tensor_group_->status());
        break;
      }
      case ActionKind::kSendForward: {
        Outbox& box = forward_boxes_[mb % forward_boxes_.size()];
        box.transfer = comm.send(next(), kForwardTag, bytes_of(box.buffer.span()));
        break;
      }
      case ActionKind::kRecvBackward:
        TENAX_RETURN_IF_ERROR(
            comm.recv(next(), kBackwardTag, writable_bytes_of(inbox_backward_.span()))->wait());
        break;
      case ActionKind::kBackward: {
        if (!backward_boxes_.empty()) {
          TENAX_TRY(input_grad, free_outbox(backward_boxes_, mb));
        }
        const std::span<float> gradient = accumulator_->next();
        std::fill(gradient.begin(), gradient.end(), 0.0F);
        stage_->backward(action.slot, inbox_backward_.span(), input_grad, gradient);
        if (tensor_group_) TENAX_RETURN_IF_ERROR(tensor_group_->status());
        if (microbatches[mb].poison_nan) gradient[0] = std::numeric_limits<float>::quiet_NaN();
        accumulator_->commit();
        if (options_.stages[static_cast<std::size_t>(options_.stage)].has_head) {
          LossSum loss = stage_->loss(action.slot);
          if (microbatches[mb].poison_nan) loss.sum = std::numeric_limits<double>::quiet_NaN();
          on_loss(action.microbatch, loss);
        }
        break;
      }
      case ActionKind::kSendBackward: {
        Outbox& box = backward_boxes_[mb % backward_boxes_.size()];
        box.transfer = comm.send(previous(), kBackwardTag, bytes_of(box.buffer.span()));
        break;
      }
    }
  }
  TENAX_RETURN_IF_ERROR(drain(forward_boxes_));
  return drain(backward_boxes_);
}

Status Engine::compute_gradients(Communicator& comm, std::span<const Microbatch> microbatches) {
  std::fill(loss_sums_.begin(), loss_sums_.end(), 0.0);
  std::fill(target_counts_.begin(), target_counts_.end(), 0);
  accumulator_->restart();
  TENAX_RETURN_IF_ERROR(run_schedule(comm, options_.schedule, microbatches, true,
                                     [&](std::int32_t mb, const LossSum& loss) {
                                       loss_sums_[static_cast<std::size_t>(mb)] = loss.sum;
                                       target_counts_[static_cast<std::size_t>(mb)] = loss.targets;
                                     }));
  TENAX_RETURN_IF_ERROR(reduce_gradients(comm));
  TENAX_RETURN_IF_ERROR(combine_tied_embedding(comm));
  TENAX_RETURN_IF_ERROR(combine_partial_gradients(comm));
  return sum_squares(comm);
}

Status Engine::reduce_gradients(Communicator& comm) {
  if (options_.zero == 0) {
    return reducer_->all_reduce(comm, replicas(), kReduceTag, *accumulator_, parts_,
                                reduced_.span());
  }
  for (const GradientSection& section : shards_.sections) {
    TENAX_RETURN_IF_ERROR(reducer_->reduce_scatter(comm, replicas(), kReduceTag, *accumulator_,
                                                   section.cuts, reduced_.span()));
  }
  return {};
}

Status Engine::combine_tied_embedding(Communicator& comm) {
  for (std::size_t i = 0; i < parameters().size(); ++i) {
    const StageParameter& p = parameters()[i];
    const GradientPart* input = part_of(p, GradientPartKind::kEmbeddingInput);
    const GradientPart* output = part_of(p, GradientPartKind::kEmbeddingOutput);
    if (input == nullptr && output == nullptr) continue;
    const auto [begin, end] = owned(moments(), i);
    const std::size_t n = end - begin;
    if (n == 0) continue;
    if (input != nullptr && output != nullptr) {
      float* const sum = reduced_.data() + input->offset + begin;
      add_floats(sum, reduced_.data() + output->offset + begin, sum, n);
      continue;
    }
    const int peer = input != nullptr ? options_.pp_group.back() : options_.pp_group.front();
    float* mine = reduced_.data() + (input != nullptr ? input->offset : output->offset) + begin;
    const auto receive = comm.recv(peer, kTiedTag, writable_bytes_of(tied_.span().first(n)));
    const auto sent = comm.send(peer, kTiedTag, bytes_of({mine, n}));
    TENAX_RETURN_IF_ERROR(receive->wait());
    TENAX_RETURN_IF_ERROR(sent->wait());
    // Always input part + output part.
    if (input != nullptr) {
      add_floats(mine, tied_.data(), mine, n);
    } else {
      add_floats(tied_.data(), mine, mine, n);
    }
  }
  return {};
}

Status Engine::combine_partial_gradients(Communicator& comm) {
  for (std::size_t i = 0; i < parameters().size(); ++i) {
    const StageParameter& p = parameters()[i];
    const int num_addends = p.held.end_addend - p.held.first_addend;
    if (num_addends < 2) continue;
    const auto [begin, end] = owned(moments(), i);
    const Group group{std::span(options_.tp_group)
                          .subspan(static_cast<std::size_t>(p.held.first_addend),
                                   static_cast<std::size_t>(num_addends)),
                      options_.tensor_rank - p.held.first_addend};
    TENAX_RETURN_IF_ERROR(all_reduce_sum(
        comm, group, kPartialTag,
        reduced_.span().subspan(static_cast<std::size_t>(p.gradients.front().offset) + begin,
                                end - begin),
        addends_.span()));
  }
  return {};
}

Status Engine::sum_squares(Communicator& comm) {
  for (const MomentPiece& piece : moments()) {
    const StageParameter& p = parameters()[piece.parameter];
    const auto n = static_cast<std::size_t>(piece.end - piece.begin);
    const std::size_t first =
        first_chunk_[piece.parameter] + static_cast<std::size_t>(piece.begin) / kNormChunk;
    chunk_sums_of_squares({reduced_.data() + p.gradients.front().offset + piece.begin, n},
                          std::span(chunk_squares_).subspan(first, num_norm_chunks(n)));
  }
  if (options_.zero > 0) {
    for (const GradientSection& section : shards_.sections) {
      if (section.norm_cuts.empty()) continue;
      std::ranges::transform(section.norm_cuts, part_bytes_.begin(),
                             [](std::size_t chunk) { return chunk * sizeof(double); });
      TENAX_RETURN_IF_ERROR(all_gather_parts(comm, replicas(), kNormTag, part_bytes_,
                                             std::as_writable_bytes(std::span(chunk_squares_))));
    }
  }
  for (std::size_t i = 0; i < square_sums_.size(); ++i) {
    const auto sums =
        std::span(chunk_squares_).subspan(first_chunk_[i], first_chunk_[i + 1] - first_chunk_[i]);
    square_sums_[i] = std::accumulate(sums.begin(), sums.end(), 0.0);
  }
  return {};
}

VerdictPart Engine::verdict_part() const {
  VerdictPart part;
  if (options_.stages[static_cast<std::size_t>(options_.stage)].has_head) {
    part.loss_sums = loss_sums_;
    part.target_counts = target_counts_;
  }
  part.square_sums = square_sums_;
  return part;
}

Result<Verdict> Engine::exchange_verdict(Communicator& comm, const VerdictPart& part) {
  return verdicts_->run(comm, kVerdictTag, part);
}

void Engine::apply_update(double grad_norm, std::int64_t targets, double learning_rate,
                          std::int64_t step) {
  double scale = 1.0 / static_cast<double>(targets);
  if (options_.clip_norm > 0 && grad_norm > options_.clip_norm)
    scale *= options_.clip_norm / grad_norm;
  AdamwStep update;
  update.step = step;
  update.learning_rate = learning_rate;
  update.gradient_scale = scale;
  for (const MomentPiece& piece : moments()) {
    const StageParameter& p = parameters()[piece.parameter];
    const auto n = static_cast<std::size_t>(piece.end - piece.begin);
    const auto moment = static_cast<std::size_t>(piece.offset);
    AdamwRange range;
    range.values = values().subspan(static_cast<std::size_t>(p.offset + piece.begin), n);
    range.gradient = {reduced_.data() + p.gradients.front().offset + piece.begin, n};
    range.m = m_.span().subspan(moment, n);
    range.v = v_.span().subspan(moment, n);
    range.decay = p.spec.decay;
    adamw_update(options_.adamw, update, range);
  }
}

Status Engine::share_weights(Communicator& comm) {
  if (options_.zero == 0) return {};
  for (const GradientSection& section : shards_.sections) {
    if (section.norm_cuts.empty()) continue;
    std::ranges::transform(section.cuts, part_bytes_.begin(),
                           [](std::size_t cut) { return cut * sizeof(float); });
    TENAX_RETURN_IF_ERROR(all_gather_parts(comm, replicas(), kWeightsTag, part_bytes_,
                                           std::as_writable_bytes(values())));
  }
  return {};
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

Status Engine::send_state(Communicator& comm, int peer) {
  for (const std::span<float> part : {values(), adam_m(), adam_v()}) {
    TENAX_RETURN_IF_ERROR(comm.send(peer, kStateTag, bytes_of(part))->wait());
  }
  return {};
}

Status Engine::recv_state(Communicator& comm, int peer) {
  for (const std::span<float> part : {values(), adam_m(), adam_v()}) {
    TENAX_RETURN_IF_ERROR(comm.recv(peer, kStateTag, writable_bytes_of(part))->wait());
  }
  return {};
}

Status Engine::take_state(Engine& other) {
  if (other.values().size() != values().size() || other.adam_m().size() != adam_m().size() ||
      other.options_.stage != options_.stage) {
    return make_error(
        ErrorCode::kInvalidArgument,
        fmt::format("stage {} cannot take the {} numbers of stage {}: it has {}", options_.stage,
                    other.values().size(), other.options_.stage, values().size()));
  }
  const std::pair<std::span<float>, std::span<float>> parts[] = {
      {other.values(), values()}, {other.adam_m(), adam_m()}, {other.adam_v(), adam_v()}};
  for (const auto& [from, to] : parts) std::copy(from.begin(), from.end(), to.begin());
  return {};
}

}  // namespace tenax::compute
