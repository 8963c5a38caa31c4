#include "compute/optimizer_shards.h"

#include <algorithm>

#include "compute/aligned_buffer.h"
#include "compute/tensor_norm.h"

namespace tenax::compute {
namespace {

/// Consecutive tensors that are cut together, at chunks of the norm.
class Stretch {
 public:
  bool empty() const { return tensors_.empty(); }

  void add(std::size_t offset, std::size_t size, std::size_t first_chunk) {
    tensors_.push_back({offset, size, first_chunk, elements_});
    elements_ += size;
  }

  GradientSection cut(int n) const {
    GradientSection section;
    for (int i = 0; i <= n; ++i) {
      const std::size_t target =
          elements_ * static_cast<std::size_t>(i) / static_cast<std::size_t>(n);
      const auto [offset, chunk] = first_place_from(target);
      section.cuts.push_back(offset);
      section.norm_cuts.push_back(chunk);
    }
    return section;
  }

 private:
  struct Tensor {
    std::size_t offset;
    std::size_t size;
    std::size_t first_chunk;
    std::size_t before;  ///< elements of the stretch before it
  };
  struct Place {
    std::size_t offset;
    std::size_t chunk;
  };

  /// The first place for a cut with at least `target` elements of the stretch before it.
  Place first_place_from(std::size_t target) const {
    for (const Tensor& t : tensors_) {
      if (target <= t.before) return {t.offset, t.first_chunk};
      const std::size_t chunk = num_norm_chunks(target - t.before);
      if (chunk < num_norm_chunks(t.size))
        return {t.offset + chunk * kNormChunk, t.first_chunk + chunk};
    }
    const Tensor& last = tensors_.back();
    return {last.offset + last.size, last.first_chunk + num_norm_chunks(last.size)};
  }

  std::vector<Tensor> tensors_;
  std::size_t elements_ = 0;
};

bool is_tied(const StageParameter& p) {
  return p.gradients.front().kind != GradientPartKind::kWhole;
}

}  // namespace

OptimizerShards shard_optimizer(std::span<const StageParameter> parameters, int num_members) {
  const std::size_t ends[] = {0, parameters.size()};
  return shard_optimizer(parameters, ends, num_members);
}

OptimizerShards shard_optimizer(std::span<const StageParameter> parameters,
                                std::span<const std::size_t> first_parameters, int num_members) {
  OptimizerShards shards;
  std::vector<GradientSection> second_parts;
  Stretch open;
  std::size_t chunk = 0;
  const auto close = [&] {
    if (!open.empty()) {
      shards.sections.push_back(open.cut(num_members));
      shards.sections.back().chunk = chunk;
    }
    open = {};
  };
  std::size_t norm_chunk = 0;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const StageParameter& p = parameters[i];
    if (i == first_parameters[chunk + 1]) {
      close();
      ++chunk;
    }
    const auto offset = static_cast<std::size_t>(p.offset);
    const auto size = static_cast<std::size_t>(p.size);
    if (is_tied(p)) close();
    open.add(offset, size, norm_chunk);
    norm_chunk += num_norm_chunks(size);
    if (!is_tied(p)) continue;
    close();
    if (p.gradients.size() < 2) continue;
    GradientSection second;
    second.chunk = chunk;
    for (const std::size_t cut : shards.sections.back().cuts)
      second.cuts.push_back(cut - offset + static_cast<std::size_t>(p.gradients[1].offset));
    second_parts.push_back(std::move(second));
  }
  close();

  shards.pieces.resize(static_cast<std::size_t>(num_members));
  for (std::size_t member = 0; member < shards.pieces.size(); ++member) {
    std::int64_t offset = 0;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const StageParameter& p = parameters[i];
      for (const GradientSection& section : shards.sections) {
        const auto begin =
            std::max(p.offset, static_cast<std::int64_t>(section.cuts[member])) - p.offset;
        const auto end =
            std::min(p.offset + p.size, static_cast<std::int64_t>(section.cuts[member + 1])) -
            p.offset;
        if (begin >= end) continue;
        shards.pieces[member].push_back({i, begin, end, offset});
        offset += static_cast<std::int64_t>(align_floats(static_cast<std::size_t>(end - begin)));
      }
    }
  }
  std::ranges::move(second_parts, std::back_inserter(shards.sections));
  return shards;
}

std::size_t moments_size(std::span<const MomentPiece> pieces) {
  if (pieces.empty()) return 0;
  const MomentPiece& last = pieces.back();
  return static_cast<std::size_t>(last.offset) +
         align_floats(static_cast<std::size_t>(last.end - last.begin));
}

}  // namespace tenax::compute
