#include "checkpoint/compare.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include "checkpoint/box.h"
#include "checkpoint/parallel.h"

namespace tenax::checkpoint {

namespace {

constexpr std::int64_t kSlabElements = 1 << 20;

void add_differences(std::span<const float> a, std::span<const float> b, TensorComparison& out) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<std::uint32_t>(a[i]) == std::bit_cast<std::uint32_t>(b[i])) continue;
    ++out.num_different;
    const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    out.max_difference =
        std::max(out.max_difference,
                 std::isfinite(difference) ? difference : std::numeric_limits<double>::infinity());
  }
}

Status compare_values(const CheckpointReader& first, const CheckpointReader& second,
                      const std::vector<std::int64_t>& shape, TensorComparison& out) {
  std::vector<float> a;
  std::vector<float> b;
  const std::int64_t total = volume(whole(shape));
  for (std::int64_t done = 0; done < total;) {
    const Box slab = slab_at(shape, done, kSlabElements);
    const std::int64_t count = volume(slab);
    a.resize(static_cast<std::size_t>(count));
    b.resize(static_cast<std::size_t>(count));
    TENAX_RETURN_IF_ERROR(first.read_box(out.kind, out.name, slab, a));
    TENAX_RETURN_IF_ERROR(second.read_box(out.kind, out.name, slab, b));
    add_differences(a, b, out);
    done += count;
  }
  if (out.num_different > 0) out.verdict = TensorVerdict::kDifferent;
  return {};
}

}  // namespace

std::string_view to_string(TensorVerdict verdict) {
  switch (verdict) {
    case TensorVerdict::kEqual:
      return "equal";
    case TensorVerdict::kDifferent:
      return "different";
    case TensorVerdict::kOtherShape:
      return "other shape";
    case TensorVerdict::kOnlyInFirst:
      return "only in the first";
    case TensorVerdict::kOnlyInSecond:
      return "only in the second";
  }
  return "unknown";
}

Result<std::vector<TensorComparison>> compare_tensors(const CheckpointReader& first,
                                                      const CheckpointReader& second,
                                                      int num_threads) {
  std::vector<TensorComparison> out;
  std::vector<std::vector<std::int64_t>> shapes;
  for (const TensorInfo& t : first.tensors()) {
    const auto other = second.tensor(t.kind, t.name);
    const TensorVerdict verdict = !other                    ? TensorVerdict::kOnlyInFirst
                                  : other->shape != t.shape ? TensorVerdict::kOtherShape
                                                            : TensorVerdict::kEqual;
    out.push_back({t.kind, t.name, verdict, 0, 0});
    shapes.push_back(t.shape);
  }
  TENAX_RETURN_IF_ERROR(for_each_index(out.size(), num_threads, [&](std::size_t i) -> Status {
    if (out[i].verdict != TensorVerdict::kEqual) return {};
    return compare_values(first, second, shapes[i], out[i]);
  }));
  for (const TensorInfo& t : second.tensors()) {
    if (!first.tensor(t.kind, t.name)) {
      out.push_back({t.kind, t.name, TensorVerdict::kOnlyInSecond, 0, 0});
    }
  }
  std::sort(out.begin(), out.end(), [](const TensorComparison& a, const TensorComparison& b) {
    return std::tie(a.kind, a.name) < std::tie(b.kind, b.name);
  });
  return out;
}

}  // namespace tenax::checkpoint
