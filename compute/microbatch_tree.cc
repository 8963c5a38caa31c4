#include "compute/microbatch_tree.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "common/check.h"

namespace tenax::compute {
namespace {

/// The partial sums of one block stay in the first-level cache.
constexpr std::size_t kBlock = 512;
constexpr std::size_t kMaxLevels = 32;

}  // namespace

std::vector<Subtree> maximal_subtrees(MicrobatchRange range) {
  std::vector<Subtree> trees;
  for (int begin = range.begin; begin < range.end;) {
    const int fitting = std::bit_width(static_cast<unsigned>(range.end - begin)) - 1;
    const int level = std::min(fitting, std::countr_zero(static_cast<unsigned>(begin)));
    trees.push_back({begin, level});
    begin += 1 << level;
  }
  return trees;
}

bool are_siblings(Subtree left, Subtree right) {
  return left.level == right.level && left.end() == right.begin &&
         (left.begin >> left.level) % 2 == 0;
}

void add_floats(const float* a, const float* b, float* sum, std::size_t n) {
  // The constant count lets the compiler use vectors; sum is a, b or apart from both.
  constexpr std::size_t kStride = 64;
  std::size_t i = 0;
  for (; i + kStride <= n; i += kStride) {
#pragma GCC ivdep
    for (std::size_t k = 0; k < kStride; ++k) sum[i + k] = a[i + k] + b[i + k];
  }
  for (; i < n; ++i) sum[i] = a[i] + b[i];
}

void sum_subtrees(std::span<const Subtree> trees, std::span<const float* const> data, float* sum,
                  std::size_t n) {
  TENAX_CHECK(!trees.empty() && trees.size() == data.size());
  struct Partial {
    Subtree tree;
    const float* values;
  };
  std::array<Partial, kMaxLevels> stack;
  std::array<std::array<float, kBlock>, kMaxLevels> blocks;  // blocks[i] belongs to stack[i]
  for (std::size_t offset = 0; offset < n; offset += kBlock) {
    const std::size_t length = std::min(kBlock, n - offset);
    std::size_t depth = 0;
    const auto merge_top = [&] {
      --depth;
      Partial& left = stack[depth - 1];
      float* const values = blocks[depth - 1].data();
      add_floats(left.values, stack[depth].values, values, length);
      left = {{left.tree.begin, left.tree.level + 1}, values};
    };
    for (std::size_t t = 0; t < trees.size(); ++t) {
      TENAX_CHECK(depth < kMaxLevels);
      stack[depth++] = {trees[t], data[t] + offset};
      while (depth > 1 && are_siblings(stack[depth - 2].tree, stack[depth - 1].tree)) merge_top();
    }
    while (depth > 1) merge_top();
    std::memcpy(sum + offset, stack[0].values, length * sizeof(float));
  }
}

}  // namespace tenax::compute
