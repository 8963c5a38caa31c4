// What an engine does with the gradients of a step once they are computed: sums over replicas in
// the fixed tree, the parts that other ranks hold, and the partial sums of the norm.
#include <algorithm>
#include <numeric>
#include <utility>

#include "compute/collectives.h"
#include "compute/engine.h"
#include "compute/engine_tags.h"
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

Status Engine::reduce_gradients(Communicator& comm) {
  if (options_.dp_group.size() == 1 && !device_->host_visible()) {
    for (const Chunk& chunk : chunks_) chunk.accumulator->total(gradients_of(chunk));
    return {};
  }
  if (peers_ != nullptr) return reduce_on_devices();
  const auto mine = static_cast<std::size_t>(options_.replica);
  for (std::size_t c = 0; c < chunks_.size(); ++c) {
    TreeAccumulator& accumulator = *chunks_[c].accumulator;
    const std::span<float> sums = gradients_of(chunks_[c]);
    TENAX_RETURN_IF_ERROR(accumulator.fetch());
    TENAX_TRY(const std::span<float> host, staging_.view(sums));
    if (options_.zero == 0) {
      TENAX_RETURN_IF_ERROR(reducer_->all_reduce(
          comm, replicas(), kReduceTag, accumulator,
          even_parts(sums.size(), static_cast<int>(options_.dp_group.size()), kAlignFloats), host));
      TENAX_RETURN_IF_ERROR(staging_.store(host, sums));
      continue;
    }
    for (const GradientSection& section : shards_.sections) {
      if (section.chunk != c) continue;
      std::vector<std::size_t> cuts = section.cuts;
      for (std::size_t& cut : cuts) cut -= chunks_[c].gradient_base;
      TENAX_RETURN_IF_ERROR(
          reducer_->reduce_scatter(comm, replicas(), kReduceTag, accumulator, cuts, host));
      const std::size_t n = cuts[mine + 1] - cuts[mine];
      TENAX_RETURN_IF_ERROR(
          staging_.store(host.subspan(cuts[mine], n), sums.subspan(cuts[mine], n)));
    }
  }
  return {};
}

Status Engine::reduce_on_devices() {
  for (std::size_t c = 0; c < chunks_.size(); ++c) {
    const TreeAccumulator& accumulator = *chunks_[c].accumulator;
    const std::span<float> sums = gradients_of(chunks_[c]);
    if (options_.zero == 0) {
      const auto parts =
          even_parts(sums.size(), static_cast<int>(options_.dp_group.size()), kAlignFloats);
      TENAX_RETURN_IF_ERROR(
          device_reducer_->all_reduce(*peers_, replicas(), accumulator, parts, sums));
      continue;
    }
    for (const GradientSection& section : shards_.sections) {
      if (section.chunk != c) continue;
      std::vector<std::size_t> cuts = section.cuts;
      for (std::size_t& cut : cuts) cut -= chunks_[c].gradient_base;
      TENAX_RETURN_IF_ERROR(
          device_reducer_->reduce_scatter(*peers_, replicas(), accumulator, cuts, sums));
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
  for (std::size_t i = 0; i < parameters().size(); ++i) {
    const StageParameter& p = parameters()[i];
    const int num_addends = p.held.end_addend - p.held.first_addend;
    if (num_addends < 2) continue;
    const auto [begin, end] = owned(moments(), i);
    const Group group{std::span(options_.tp_group)
                          .subspan(static_cast<std::size_t>(p.held.first_addend),
                                   static_cast<std::size_t>(num_addends)),
                      options_.tensor_rank - p.held.first_addend};
    const std::span<float> gradient = reduced_.span().subspan(
        static_cast<std::size_t>(p.gradients.front().offset) + begin, end - begin);
    TENAX_TRY(const std::span<float> host, staging_.view(gradient));
    TENAX_RETURN_IF_ERROR(staging_.fetch(gradient, host));
    TENAX_RETURN_IF_ERROR(partial_sums_->run(comm, group, kPartialTag, host));
    TENAX_RETURN_IF_ERROR(staging_.store(host, gradient));
  }
  return {};
}

Status Engine::sum_squares(Communicator& comm) {
  std::vector<NormRange> ranges;
  for (const MomentPiece& piece : moments()) {
    const StageParameter& p = parameters()[piece.parameter];
    const auto n = static_cast<std::size_t>(piece.end - piece.begin);
    const std::size_t first =
        first_chunk_[piece.parameter] + static_cast<std::size_t>(piece.begin) / kNormChunk;
    ranges.push_back({reduced_.span().subspan(
                          static_cast<std::size_t>(p.gradients.front().offset + piece.begin), n),
                      std::span(chunk_squares_).subspan(first, num_norm_chunks(n))});
  }
  device_->chunk_squares(ranges);
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
