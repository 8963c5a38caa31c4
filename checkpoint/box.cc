#include "checkpoint/box.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/check.h"

namespace tenax::checkpoint {

namespace {

/// Elements between neighbours of each dim in a row-major box.
std::vector<std::int64_t> strides(const Box& box) {
  std::vector<std::int64_t> s(box.extent.size(), 1);
  for (std::size_t d = s.size(); d-- > 1;) s[d - 1] = s[d] * box.extent[d];
  return s;
}

}  // namespace

Box whole(std::span<const std::int64_t> shape) {
  return {std::vector<std::int64_t>(shape.size(), 0), {shape.begin(), shape.end()}};
}

std::int64_t volume(const Box& box) {
  std::int64_t v = 1;
  for (const std::int64_t e : box.extent) v *= e;
  return v;
}

bool lies_within(const Box& box, std::span<const std::int64_t> shape) {
  if (box.offset.size() != shape.size() || box.extent.size() != shape.size()) return false;
  for (std::size_t d = 0; d < shape.size(); ++d) {
    if (box.offset[d] < 0 || box.extent[d] < 0 || box.extent[d] > shape[d] ||
        box.offset[d] > shape[d] - box.extent[d]) {
      return false;
    }
  }
  return true;
}

std::optional<Box> intersect(const Box& a, const Box& b) {
  TENAX_CHECK(a.offset.size() == b.offset.size());
  Box part;
  for (std::size_t d = 0; d < a.offset.size(); ++d) {
    const std::int64_t begin = std::max(a.offset[d], b.offset[d]);
    const std::int64_t end = std::min(a.offset[d] + a.extent[d], b.offset[d] + b.extent[d]);
    if (begin >= end) return std::nullopt;
    part.offset.push_back(begin);
    part.extent.push_back(end - begin);
  }
  return part;
}

std::vector<Box> subtract(const Box& from, const Box& part) {
  std::vector<Box> rest;
  Box core = from;
  // Cut slabs off one dim after the other; what is left of `core` is `part`.
  for (std::size_t d = 0; d < from.offset.size(); ++d) {
    const std::int64_t before = part.offset[d] - core.offset[d];
    const std::int64_t after = core.extent[d] - before - part.extent[d];
    if (before > 0) {
      Box slab = core;
      slab.extent[d] = before;
      rest.push_back(std::move(slab));
    }
    if (after > 0) {
      Box slab = core;
      slab.offset[d] = part.offset[d] + part.extent[d];
      slab.extent[d] = after;
      rest.push_back(std::move(slab));
    }
    core.offset[d] = part.offset[d];
    core.extent[d] = part.extent[d];
  }
  return rest;
}

std::vector<Run> copy_runs(const Box& source, const Box& target, const Box& part) {
  const std::size_t dims = part.extent.size();
  const std::int64_t total = volume(part);
  if (total == 0) return {};
  const auto source_strides = strides(source);
  const auto target_strides = strides(target);

  // Trailing dims that `part` covers entirely in both boxes are contiguous with the one before
  // them.
  std::size_t inner = dims == 0 ? 0 : dims - 1;
  std::int64_t count = dims == 0 ? 1 : part.extent[inner];
  while (inner > 0 && part.extent[inner] == source.extent[inner] &&
         part.extent[inner] == target.extent[inner]) {
    --inner;
    count *= part.extent[inner];
  }

  std::vector<std::int64_t> at = part.offset;
  std::vector<Run> runs;
  runs.reserve(static_cast<std::size_t>(total / count));
  for (std::int64_t done = 0; done < total; done += count) {
    Run run{0, 0, count};
    for (std::size_t d = 0; d < dims; ++d) {
      run.source += (at[d] - source.offset[d]) * source_strides[d];
      run.target += (at[d] - target.offset[d]) * target_strides[d];
    }
    runs.push_back(run);
    for (std::size_t d = inner; d-- > 0;) {
      if (++at[d] < part.offset[d] + part.extent[d]) break;
      at[d] = part.offset[d];
    }
  }
  return runs;
}

Box slab_at(const std::vector<std::int64_t>& shape, std::int64_t begin, std::int64_t max_elements) {
  Box slab = whole(shape);
  std::int64_t inner = volume(slab);
  for (std::size_t d = 0; d < shape.size(); ++d) {
    inner /= shape[d];
    const std::int64_t index = begin / inner;
    begin -= index * inner;
    slab.offset[d] = index;
    if (begin == 0 && inner <= max_elements) {
      slab.extent[d] = std::min(shape[d] - index, std::max<std::int64_t>(1, max_elements / inner));
      break;
    }
    slab.extent[d] = 1;
  }
  return slab;
}

std::string to_string(const Box& box) {
  std::string text = "[";
  for (std::size_t d = 0; d < box.offset.size(); ++d) {
    text +=
        fmt::format("{}{}:{}", d == 0 ? "" : ", ", box.offset[d], box.offset[d] + box.extent[d]);
  }
  return text + "]";
}

}  // namespace tenax::checkpoint
