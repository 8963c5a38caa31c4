#include "compute/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "common/check.h"
#include "compute/collectives.h"
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
};

std::span<const std::byte> bytes_of(std::span<const float> f) { return std::as_bytes(f); }
std::span<std::byte> writable_bytes_of(std::span<float> f) { return std::as_writable_bytes(f); }

/// A stage's tensors that no earlier stage holds.
std::vector<std::size_t> own_tensors(const EngineOptions& options, int stage, std::size_t* count) {
  const StageSpec& spec = options.stages[static_cast<std::size_t>(stage)];
  const auto specs = stage_parameters(options.model, spec.first_layer, spec.end_layer,
                                      spec.has_embedding, spec.has_head);
  *count = specs.size();
  std::vector<std::size_t> own;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    if (stage > 0 && specs[i].name == kTokenEmbedding) continue;
    own.push_back(i);
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
    std::size_t count = 0;
    VerdictShape::NormSource source{options.replicas.front()[s],
                                    own_tensors(options, static_cast<int>(s), &count)};
    shape.max_tensors = std::max(shape.max_tensors, count);
    shape.norms.push_back(std::move(source));
  }
  return shape;
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
  TENAX_TRY(engine->stage_, Stage::create(o.model, o.stages[static_cast<std::size_t>(o.stage)],
                                          o.shape, o.num_slots, o.settings));
  const std::size_t num_values = engine->stage_->values().size();
  const std::size_t num_gradients = engine->stage_->gradient_size();
  const std::size_t boundary = engine->stage_->boundary_size();
  const MicrobatchRange range = o.ranges[static_cast<std::size_t>(o.replica)];
  try {
    engine->m_ = AlignedBuffer(num_values);
    engine->v_ = AlignedBuffer(num_values);
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
  engine->verdicts_ = std::make_unique<VerdictExchange>(o.world_size, o.rank, verdict_shape(o));
  for (const StageParameter& p : engine->parameters())
    engine->rules_.push_back(update_rule(p.spec, o.adamw.weight_decay, o.groups));
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
  // Transfers left over from a failed step belong to a dead communicator.
  for (Outbox& box : forward_boxes_) box.transfer.reset();
  for (Outbox& box : backward_boxes_) box.transfer.reset();
  std::span<float> output;
  std::span<float> input_grad;
  for (const Action& action : schedule) {
    const TraceSpan span(train ? options_.trace : nullptr, static_cast<TraceKind>(action.kind),
                         action.microbatch);
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
          stage_->forward(action.slot,
                          {batch.tokens, batch.targets, batch.positions, batch.samples},
                          inbox_forward_.span(), output);
        } else {
          const LossSum loss = stage_->evaluate({batch.tokens, batch.targets, batch.positions},
                                                inbox_forward_.span(), output);
          on_loss(action.microbatch, loss);
        }
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
  const TraceSpan span(options_.trace, TraceKind::kReduce);
  TENAX_RETURN_IF_ERROR(reducer_->all_reduce(comm, {options_.dp_group, options_.replica},
                                             kReduceTag, *accumulator_, parts_, reduced_.span()));
  return combine_tied_embedding(comm);
}

Status Engine::combine_tied_embedding(Communicator& comm) {
  for (const StageParameter& p : parameters()) {
    const GradientPart* input = part_of(p, GradientPartKind::kEmbeddingInput);
    const GradientPart* output = part_of(p, GradientPartKind::kEmbeddingOutput);
    if (input == nullptr && output == nullptr) continue;
    const auto n = static_cast<std::size_t>(p.size);
    if (input != nullptr && output != nullptr) {
      add_floats(reduced_.data() + input->offset, reduced_.data() + output->offset,
                 reduced_.data() + input->offset, n);
      continue;
    }
    const int peer = input != nullptr ? options_.pp_group.back() : options_.pp_group.front();
    float* mine = reduced_.data() + (input != nullptr ? input->offset : output->offset);
    const auto receive = comm.recv(peer, kTiedTag, writable_bytes_of(tied_.span()));
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

VerdictPart Engine::verdict_part() const {
  VerdictPart part;
  if (options_.stages[static_cast<std::size_t>(options_.stage)].has_head) {
    part.loss_sums = loss_sums_;
    part.target_counts = target_counts_;
  }
  for (const StageParameter& p : parameters()) {
    part.square_sums.push_back(sum_of_squares(
        {reduced_.data() + p.gradients.front().offset, static_cast<std::size_t>(p.size)}));
  }
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
  for (std::size_t i = 0; i < parameters().size(); ++i) {
    const StageParameter& p = parameters()[i];
    const auto n = static_cast<std::size_t>(p.size);
    const auto offset = static_cast<std::size_t>(p.offset);
    AdamwRange range;
    range.values = values().subspan(offset, n);
    range.gradient = {reduced_.data() + p.gradients.front().offset, n};
    range.m = m_.span().subspan(offset, n);
    range.v = v_.span().subspan(offset, n);
    range.decay = rules_[i].weight_decay > 0;
    AdamwOptions adamw = options_.adamw;
    adamw.weight_decay = rules_[i].weight_decay;
    update.learning_rate = learning_rate * rules_[i].learning_rate_factor;
    adamw_update(adamw, update, range);
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
