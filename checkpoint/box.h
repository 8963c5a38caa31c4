// Arithmetic on boxes: axis-parallel parts of a logical tensor. Pure functions.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/run_types.h"

namespace tenax::checkpoint {

/// The box that is the whole tensor.
Box whole(std::span<const std::int64_t> shape);

/// Number of elements; 1 for the box of a scalar (no dims).
std::int64_t volume(const Box& box);

/// True if `box` has one offset and one extent a dim and lies within `shape`.
bool lies_within(const Box& box, std::span<const std::int64_t> shape);

/// Nothing if they share no element. Both must have the same number of dims.
std::optional<Box> intersect(const Box& a, const Box& b);

/// `from` without `part`, as disjoint boxes; `part` must lie within `from`.
std::vector<Box> subtract(const Box& from, const Box& part);

/// A run of elements that is contiguous in both of two boxes.
struct Run {
  std::int64_t source = 0;  ///< index of its first element in the source box, row-major
  std::int64_t target = 0;  ///< the same in the target box
  std::int64_t count = 0;
};

/// The longest runs that copy `part` (within both) from `source` to `target`, in ascending order in
/// both.
std::vector<Run> copy_runs(const Box& source, const Box& target, const Box& part);

/// The part of a tensor that begins at element `begin`, is contiguous in it and has at most
/// `max_elements`: whole rows where they fit. For walking a tensor: begin += volume(slab).
Box slab_at(const std::vector<std::int64_t>& shape, std::int64_t begin, std::int64_t max_elements);

/// "[0:4, 16:32]"
std::string to_string(const Box& box);

}  // namespace tenax::checkpoint
