// What an engine does with the gradients of a step once they are computed: sums over replicas in
// the fixed tree, the parts that other ranks hold, and the partial sums of the norm.
#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "compute/collectives.h"
#include "compute/engine.h"
#include "compute/engine_tags.h"
#include "compute/gradient_buckets.h"
#include "compute/tensor_norm.h"

namespace tenax::compute {

namespace {

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

void Engine::plan_reductions() {
  std::vector<TreeReduction> all;
  for (Chunk& chunk : chunks_) {
    std::vector<GradientSection> sections;
    for (const GradientSection& section : shards_.sections) {
      if (options_.zero == 0 || &chunks_[section.chunk] != &chunk) continue;
      sections.push_back(section);
      for (std::size_t& cut : sections.back().cuts) cut -= chunk.gradient_base;
    }
    BucketOptions options;
    options.num_members = static_cast<int>(options_.dp_group.size());
    options.sections = sections;
    options.least_floats = options_.bucket_bytes / sizeof(float);
    options.max_piece_floats = reducer_->max_piece();
    const auto buckets = cut_into_buckets(chunk.backward_order, options);
    chunk.last_parts.clear();
    chunk.reductions.clear();
    for (const GradientBucket& bucket : buckets) {
      const auto number = static_cast<std::int32_t>(all.size() + chunk.reductions.size());
      chunk.last_parts.push_back(bucket.part);
      chunk.reductions.push_back({chunk.accumulator.get(), gradients_of(chunk), bucket.pieces,
                                  options_.zero == 0,
                                  kReduceTag | static_cast<std::uint64_t>(number), number});
    }
    all.insert(all.end(), chunk.reductions.begin(), chunk.reductions.end());
  }
  const std::size_t wanted = reducer_->wanted_bytes(all);
  reducer_->reserve(wanted, all.size());
  if (device_reducer_)
    device_reducer_->reserve(std::min(wanted, TreeReduceOptions{}.max_workspace_bytes));
}

Status Engine::start_reductions(Communicator& comm, Chunk& chunk, int part) {
  for (; chunk.num_started < chunk.reductions.size(); ++chunk.num_started) {
    if (chunk.last_parts[chunk.num_started] > part) break;
    TreeReduction& reduction = chunk.reductions[chunk.num_started];
    if (sums_go_between_devices()) {
      reduction.out = gradients_of(chunk);
      TENAX_RETURN_IF_ERROR(device_reducer_->start(*peers_, replicas(), reduction));
    } else {
      TENAX_RETURN_IF_ERROR(reducer_->start(comm, replicas(), reduction));
    }
  }
  return {};
}

Status Engine::reduce_gradients(Communicator& comm) {
  if (!device_->host_visible() && !sums_go_between_devices()) {
    if (options_.dp_group.size() > 1) return reduce_through_host(comm);
    for (const Chunk& chunk : chunks_) chunk.accumulator->total(gradients_of(chunk));
    return {};
  }
  // In the order in which backwards end, which is the same on all replicas.
  for (auto chunk = chunks_.rbegin(); chunk != chunks_.rend(); ++chunk)
    TENAX_RETURN_IF_ERROR(start_reductions(comm, *chunk, std::numeric_limits<int>::max()));
  return sums_go_between_devices() ? device_reducer_->finish(*peers_, replicas())
                                   : reducer_->finish(comm, replicas());
}

Status Engine::reduce_through_host(Communicator& comm) {
  TENAX_TRY(const std::span<float> host, staging_.view(reduced_.span()));
  for (auto chunk = chunks_.rbegin(); chunk != chunks_.rend(); ++chunk) {
    TENAX_RETURN_IF_ERROR(chunk->accumulator->fetch());
    for (TreeReduction& reduction : chunk->reductions)
      reduction.out = host.subspan(chunk->gradient_base, chunk->stage->gradient_size());
    TENAX_RETURN_IF_ERROR(start_reductions(comm, *chunk, std::numeric_limits<int>::max()));
  }
  TENAX_RETURN_IF_ERROR(reducer_->finish(comm, replicas()));
  for (const Chunk& chunk : chunks_) {
    for (const TreeReduction& reduction : chunk.reductions) {
      for (std::size_t member = 0; member < reduction.pieces.size(); ++member) {
        if (!reduction.gather && member != static_cast<std::size_t>(options_.replica)) continue;
        const auto [begin, end] = reduction.pieces[member];
        TENAX_RETURN_IF_ERROR(staging_.store(reduction.out.subspan(begin, end - begin),
                                             gradients_of(chunk).subspan(begin, end - begin)));
      }
    }
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
    const auto region = [&](const GradientPart* part) {
      return reduced_.span().subspan(static_cast<std::size_t>(part->offset) + begin, n);
    };
    if (input != nullptr && output != nullptr) {
      device_->add(region(input), region(output), region(input));
      continue;
    }
    const int peer = input != nullptr ? options_.pp_group.back() : options_.pp_group.front();
    const std::span<float> gradient = region(input != nullptr ? input : output);
    TENAX_TRY(const std::span<float> mine, staging_.view(gradient));
    TENAX_RETURN_IF_ERROR(staging_.fetch(gradient, mine));
    const auto receive = comm.recv(peer, kTiedTag, writable_bytes_of(tied_.span().first(n)));
    const auto sent = comm.send(peer, kTiedTag, bytes_of(mine));
    TENAX_RETURN_IF_ERROR(receive->wait());
    TENAX_RETURN_IF_ERROR(sent->wait());
    // Always input part + output part.
    if (input != nullptr) {
      add_floats(mine.data(), tied_.data(), mine.data(), n);
    } else {
      add_floats(tied_.data(), mine.data(), mine.data(), n);
    }
    TENAX_RETURN_IF_ERROR(staging_.store(mine, gradient));
  }
  return {};
}

Status Engine::combine_partial_gradients(Communicator& comm) {
  const auto gradient = [&](std::size_t i) {
    const auto [begin, end] = owned(moments(), i);
    return reduced_.span().subspan(
        static_cast<std::size_t>(parameters()[i].gradients.front().offset) + begin, end - begin);
  };
  const auto is_packed = [&](std::size_t i) {
    const StageParameter& p = parameters()[i];
    return p.spec.split == TensorSplit::kSum && num_addends(p) > 1;
  };
  std::size_t packed = 0;
  const auto for_packed = [&](auto&& f) {
    packed = 0;
    for (std::size_t i = 0; i < parameters().size(); ++i) {
      if (!is_packed(i)) continue;
      f(gradient(i), partial_.span().subspan(packed, gradient(i).size()));
      packed += gradient(i).size();
    }
  };
  for_packed([&](std::span<float> g, std::span<float> place) { device_->copy(g, place); });
  const int num_ranks = static_cast<int>(options_.tp_group.size());
  TENAX_RETURN_IF_ERROR(sum_over_ranks(comm, 0, num_ranks, partial_.span().first(packed)));
  for_packed([&](std::span<float> g, std::span<float> place) { device_->copy(place, g); });
  for (std::size_t i = 0; i < parameters().size(); ++i) {
    const HeldPart& held = parameters()[i].held;
    if (!is_packed(i) && num_addends(parameters()[i]) > 1)
      TENAX_RETURN_IF_ERROR(sum_over_ranks(comm, held.first_addend, held.end_addend, gradient(i)));
  }
  return {};
}

Status Engine::sum_over_ranks(Communicator& comm, int first, int end, std::span<float> gradient) {
  if (gradient.empty()) return {};
  const Group group{
      std::span(options_.tp_group)
          .subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(end - first)),
      options_.tensor_rank - first};
  TENAX_TRY(const std::span<float> host, staging_.view(gradient));
  TENAX_RETURN_IF_ERROR(staging_.fetch(gradient, host));
  TENAX_RETURN_IF_ERROR(partial_sums_->all_reduce(comm, group, kPartialTag, host));
  return staging_.store(host, gradient);
}

Status Engine::sum_squares(Communicator& comm) {
  device_->chunk_squares(norm_ranges_);
  TENAX_RETURN_IF_ERROR(device_->status());
  if (peers_ != nullptr) TENAX_RETURN_IF_ERROR(peers_->status());
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

}  // namespace tenax::compute
