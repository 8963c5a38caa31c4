// How an engine goes through a step: the actions of its schedule, and the reduction of each bucket
// of gradients as soon as the last backward has ended with it.
#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "compute/engine.h"
#include "compute/engine_tags.h"

namespace tenax::compute {

/// Settles the gradients of one microbatch part by part. Of the last one, starts the reductions.
class Engine::GradientSettler final : public BackwardWatcher {
 public:
  GradientSettler(Engine& engine, Communicator& comm, Chunk& chunk, const Microbatch& batch)
      : engine_(engine), comm_(comm), chunk_(chunk), batch_(batch) {}

  void part_done(int part) override {
    const Device& device = engine_.device();
    TreeAccumulator& sums = *chunk_.accumulator;
    const bool overlaps = engine_.options_.overlap == Overlap::kOn && sums.at_last();
    if (!device.host_visible() && num_settled_ == 0 &&
        !(overlaps && engine_.sums_go_between_devices())) {
      // One addition, since nothing waits for its parts.
      if (part != std::numeric_limits<int>::max()) return;
      for (const GradientExtent& e : chunk_.backward_order) inject_faults(e);
      sums.settle(0, sums.num_elements());
      num_settled_ = chunk_.backward_order.size();
      return;
    }
    for (; num_settled_ < chunk_.backward_order.size(); ++num_settled_) {
      const GradientExtent& e = chunk_.backward_order[num_settled_];
      if (e.part > part) break;
      inject_faults(e);
      sums.settle(static_cast<std::size_t>(e.begin), static_cast<std::size_t>(e.end));
    }
    if (overlaps && status_) status_ = engine_.start_reductions(comm_, chunk_, part);
  }
  const Status& status() const { return status_; }

 private:
  void inject_faults(const GradientExtent& e) const {
    Device& device = engine_.device();
    const std::span<float> gradient = chunk_.accumulator->next();
    if (batch_.poison_nan && e.begin == 0) {
      const float nan = std::numeric_limits<float>::quiet_NaN();
      device.write({&nan, 1}, gradient.first(1));
    }
    if (batch_.set_gradient_bits == 0) return;
    const auto& parameters = chunk_.stage->parameters();
    const StageParameter& p = parameters[parameters.size() / 2];
    const std::int64_t begin = p.gradients.front().offset;
    if (begin < e.begin || begin >= e.end) return;
    const auto part =
        gradient.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(p.size));
    std::vector<float> host(part.size());
    device.read(part, host);
    for (std::size_t i = 0; i < host.size(); ++i) {
      const auto bits = std::bit_cast<std::uint32_t>(host[i]);
      if (host[i] == 0 || (bits & batch_.set_gradient_bits) != 0) continue;
      host[i] = std::bit_cast<float>(bits | batch_.set_gradient_bits);
      device.write(std::span<const float>(host).subspan(i, 1), part.subspan(i, 1));
      return;
    }
  }

  Engine& engine_;
  Communicator& comm_;
  Chunk& chunk_;
  const Microbatch& batch_;
  std::size_t num_settled_ = 0;  ///< extents
  Status status_;
};

Status Engine::receive(Communicator& comm, DevicePeers* link, int peer, std::uint64_t tag,
                       const Boundary& inbox) {
  const std::span<float> buffer = span_of(inbox);
  if (buffer.empty()) return {};
  if (link == nullptr) return comm.recv(peer, tag, writable_bytes_of(buffer))->wait();
  const DeviceTransfer transfer{TransferKind::kRecv, 0, buffer};
  return link->exchange({&transfer, 1});
}

Status Engine::send(Communicator& comm, DevicePeers* link, int peer, std::uint64_t tag,
                    Outbox& box) {
  const std::span<float> buffer = span_of(box.buffer);
  if (buffer.empty()) return {};
  if (link == nullptr) {
    box.transfer = comm.send(peer, tag, bytes_of(buffer));
    return {};
  }
  box.link = link;
  const DeviceTransfer transfer{TransferKind::kSend, 1, buffer};
  return link->begin({&transfer, 1});
}

Status Engine::wait_for(Outbox& box) {
  if (DevicePeers* const link = std::exchange(box.link, nullptr); link != nullptr)
    return link->join();
  return box.transfer ? std::exchange(box.transfer, nullptr)->wait() : Status();
}

Result<std::span<float>> Engine::free_outbox(std::vector<Outbox>& boxes, std::size_t index) {
  Outbox& box = boxes[index % boxes.size()];
  TENAX_RETURN_IF_ERROR(wait_for(box));
  return span_of(box.buffer);
}

Status Engine::drain(std::vector<Outbox>& boxes) {
  for (Outbox& box : boxes) TENAX_RETURN_IF_ERROR(wait_for(box));
  return {};
}

Status Engine::run_schedule(Communicator& comm, const PipelineSchedule& schedule,
                            std::span<const Microbatch> microbatches, bool train,
                            const LossSink& on_loss) {
  if (tensor_group_) tensor_group_->use(comm);
  if (options_.trace != nullptr) options_.trace->record_details(train);
  // Transfers left over from a failed step belong to a dead communicator.
  for (Chunk& chunk : chunks_) {
    chunk.stage->begin_step();
    for (auto* const boxes : {&chunk.forward_boxes, &chunk.backward_boxes})
      for (Outbox& box : *boxes) {
        box.transfer.reset();
        box.link = nullptr;
      }
  }
  for (const Action& action : schedule) {
    const TraceSpan span(train ? options_.trace : nullptr, static_cast<TraceKind>(action.kind),
                         action.microbatch);
    Chunk& chunk = chunks_[static_cast<std::size_t>(action.chunk)];
    const auto mb = static_cast<std::size_t>(action.microbatch);
    // Messages between two ranks match by the virtual stage that sends them.
    const std::uint64_t v = chunk.virtual_stage;
    switch (action.kind) {
      case ActionKind::kRecvForward:
        TENAX_RETURN_IF_ERROR(receive(comm, neighbours_.forward_in, previous(),
                                      kForwardTag | (v - 1), chunk.inbox_forward));
        break;
      case ActionKind::kForward:
        TENAX_RETURN_IF_ERROR(forward(chunk, action, microbatches[mb], train, on_loss));
        break;
      case ActionKind::kSendForward:
        TENAX_RETURN_IF_ERROR(send(comm, neighbours_.forward_out, next(), kForwardTag | v,
                                   chunk.forward_boxes[mb % chunk.forward_boxes.size()]));
        break;
      case ActionKind::kRecvBackward:
        TENAX_RETURN_IF_ERROR(receive(comm, neighbours_.backward_in, next(), kBackwardTag | (v + 1),
                                      chunk.inbox_backward));
        break;
      case ActionKind::kBackward:
        TENAX_RETURN_IF_ERROR(backward(comm, chunk, action, microbatches[mb], on_loss));
        break;
      case ActionKind::kSendBackward:
        TENAX_RETURN_IF_ERROR(send(comm, neighbours_.backward_out, previous(), kBackwardTag | v,
                                   chunk.backward_boxes[mb % chunk.backward_boxes.size()]));
        break;
    }
  }
  for (Chunk& chunk : chunks_) {
    TENAX_RETURN_IF_ERROR(drain(chunk.forward_boxes));
    TENAX_RETURN_IF_ERROR(drain(chunk.backward_boxes));
    TENAX_RETURN_IF_ERROR(chunk.stage->status());
  }
  for (DevicePeers* const link : {neighbours_.forward_in, neighbours_.forward_out,
                                  neighbours_.backward_in, neighbours_.backward_out})
    if (link != nullptr) TENAX_RETURN_IF_ERROR(link->status());
  return {};
}

Status Engine::forward(Chunk& chunk, const Action& action, const Microbatch& batch, bool train,
                       const LossSink& on_loss) {
  std::span<float> output;
  if (!chunk.forward_boxes.empty()) {
    TENAX_TRY(output,
              free_outbox(chunk.forward_boxes, static_cast<std::size_t>(action.microbatch)));
  }
  if (train) {
    chunk.stage->forward(action.slot, {batch.tokens, batch.targets, batch.positions, batch.samples},
                         span_of(chunk.inbox_forward), output);
  } else {
    const LossSum loss = chunk.stage->evaluate({batch.tokens, batch.targets, batch.positions},
                                               span_of(chunk.inbox_forward), output);
    if (spec(chunk).has_head) on_loss(action.microbatch, loss);
  }
  return tensor_group_ ? tensor_group_->status() : Status{};
}

Status Engine::backward(Communicator& comm, Chunk& chunk, const Action& action,
                        const Microbatch& batch, const LossSink& on_loss) {
  std::span<float> input_grad;
  if (!chunk.backward_boxes.empty()) {
    TENAX_TRY(input_grad,
              free_outbox(chunk.backward_boxes, static_cast<std::size_t>(action.microbatch)));
  }
  const std::span<float> gradient = chunk.accumulator->next();
  GradientSettler settler(*this, comm, chunk, batch);
  chunk.stage->backward(action.slot, span_of(chunk.inbox_backward), input_grad, gradient, &settler);
  if (tensor_group_) TENAX_RETURN_IF_ERROR(tensor_group_->status());
  settler.part_done(std::numeric_limits<int>::max());
  TENAX_RETURN_IF_ERROR(settler.status());
  chunk.accumulator->commit_settled();
  if (spec(chunk).has_head) {
    LossSum loss = chunk.stage->loss(action.slot);
    if (batch.poison_nan) loss.sum = std::numeric_limits<double>::quiet_NaN();
    if (!sample_losses_.empty()) {
      const std::span<const double> samples = chunk.stage->sample_losses(action.slot);
      const auto place = std::span(sample_losses_)
                             .subspan(static_cast<std::size_t>(action.microbatch) * samples.size(),
                                      samples.size());
      std::ranges::copy(samples, place.begin());
      if (batch.poison_nan) std::ranges::fill(place, loss.sum);
    }
    on_loss(action.microbatch, loss);
  }
  return {};
}

Status Engine::compute_gradients(Communicator& comm, std::span<const Microbatch> microbatches) {
  std::fill(loss_sums_.begin(), loss_sums_.end(), 0.0);
  std::fill(target_counts_.begin(), target_counts_.end(), 0);
  reducer_->abandon();
  if (device_reducer_) device_reducer_->abandon();
  for (Chunk& chunk : chunks_) {
    chunk.accumulator->restart();
    chunk.num_started = 0;
  }
  TENAX_RETURN_IF_ERROR(run_schedule(comm, options_.schedule, microbatches, true,
                                     [&](std::int32_t mb, const LossSum& loss) {
                                       loss_sums_[static_cast<std::size_t>(mb)] = loss.sum;
                                       target_counts_[static_cast<std::size_t>(mb)] = loss.targets;
                                     }));
  TENAX_RETURN_IF_ERROR(reduce_gradients(comm));
  {
    const TraceSpan span(options_.trace, TraceKind::kCombine);
    TENAX_RETURN_IF_ERROR(combine_tied_embedding(comm));
    TENAX_RETURN_IF_ERROR(combine_partial_gradients(comm));
  }
  const TraceSpan span(options_.trace, TraceKind::kNormSums);
  return sum_squares(comm);
}

}  // namespace tenax::compute
