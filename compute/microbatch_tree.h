// The one order in which the gradients of a step's M microbatches are added: a binary tree over
// microbatch indices that depends on M alone, so the sum has the same bits whoever computes which
// microbatch (T2). The tree over a range of size s > 1 is the tree over its first 2^k indices, 2^k
// the largest power of two below s, plus the tree over the rest. Its complete subtrees are those
// over [j 2^k, (j + 1) 2^k). Pure functions, any thread.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace tenax::compute {

/// Microbatch indices [begin, end) of a step.
struct MicrobatchRange {
  int begin = 0;
  int end = 0;
  int size() const { return end - begin; }
  bool operator==(const MicrobatchRange&) const = default;
};

/// The complete tree over [begin, begin + 2^level); begin is a multiple of 2^level.
struct Subtree {
  int begin = 0;
  int level = 0;
  int end() const { return begin + (1 << level); }
  bool operator==(const Subtree&) const = default;
};

/// The fewest complete subtrees that cover `range`, ascending: what a replica that owns the range
/// can add by itself. At most ceil(log2 M) if the range begins at 0 or ends at a power of two M, at
/// most 2 ceil(log2 size) otherwise.
std::vector<Subtree> maximal_subtrees(MicrobatchRange range);

/// True if `left` and `right` are the two halves of one complete subtree.
bool are_siblings(Subtree left, Subtree right);

/// sum[i] = a[i] + b[i] for i < n; sum may be a or b.
void add_floats(const float* a, const float* b, float* sum, std::size_t n);

/// sum[i] = the tree's sum of data[t][i] over all t, for i < n. `trees` are disjoint, ascending and
/// cover [0, M); data[t] is the sum over trees[t]. Reads each input once. `sum` may be none of the
/// inputs. At most 31 levels.
void sum_subtrees(std::span<const Subtree> trees, std::span<const float* const> data, float* sum,
                  std::size_t n);

}  // namespace tenax::compute
