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
  if (options_.zero == 0) {
    for (const Chunk& chunk : chunks_) {
      const std::span<float> sums = gradients_of(chunk);
      TENAX_RETURN_IF_ERROR(reducer_->all_reduce(
          comm, replicas(), kReduceTag, *chunk.accumulator,
          even_parts(sums.size(), static_cast<int>(options_.dp_group.size()), kAlignFloats), sums));
    }
    return {};
  }
  for (const GradientSection& section : shards_.sections) {
    const Chunk& chunk = chunks_[section.chunk];
    std::vector<std::size_t> cuts = section.cuts;
    for (std::size_t& cut : cuts) cut -= chunk.gradient_base;
    TENAX_RETURN_IF_ERROR(reducer_->reduce_scatter(comm, replicas(), kReduceTag, *chunk.accumulator,
                                                   cuts, gradients_of(chunk)));
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
    TENAX_RETURN_IF_ERROR(partial_sums_->run(
        comm, group, kPartialTag,
        reduced_.span().subspan(static_cast<std::size_t>(p.gradients.front().offset) + begin,
                                end - begin)));
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

}  // namespace tenax::compute
