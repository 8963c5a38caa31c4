// Sums the gradients of all replicas in the fixed tree over microbatches (microbatch_tree.h):
// bit-identical results for every number of replicas and every division of the microbatches among
// them (T2).
//
// The elements are cut into one part a member. Every member sends its subtrees' values of part p to
// member p, which adds all subtrees in the tree's order; that is a reduce-scatter. An all-gather of
// the parts makes it an all-reduce. A member with S subtrees sends S times what an ordinary
// reduce-scatter sends; S is 1 when the microbatches are divided into equal powers of two. Parts
// travel in segments, and one segment is added while the next is on its way.
//
// Confined to the engine's thread. Allocates in create() only (but for the transfers themselves).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/result.h"
#include "compute/collectives.h"
#include "compute/communicator.h"
#include "compute/microbatch_tree.h"
#include "compute/tree_accumulator.h"

namespace tenax::compute {

struct TreeReduceOptions {
  std::vector<MicrobatchRange> ranges;  ///< by group index; may be empty, disjoint, cover [0, M)
  int num_microbatches = 0;             ///< M
  int index = 0;                        ///< the caller's place in the group
  std::size_t max_workspace_bytes = 16 << 20;  ///< shortens segments if there are many subtrees
};

/// A subtree of the whole tree: whose it is.
struct TreeSource {
  int member = 0;
  std::size_t local = 0;   ///< which of the member's subtrees
  std::size_t remote = 0;  ///< which of all other members' subtrees
};

/// All members' subtrees, ascending, and whose each is; returns how many are not the caller's.
std::size_t plan_tree_sources(const TreeReduceOptions& options, std::vector<Subtree>& trees,
                              std::vector<TreeSource>& sources);

class TreeReducer {
 public:
  /// kInvalidArgument unless the ranges cover [0, M) exactly once.
  static Result<TreeReducer> create(TreeReduceOptions options);

  /// For member i: out[j] = the sum of all microbatches' gradient j, for j in [parts[i], parts[i +
  /// 1]); the rest of `out` is untouched. `mine` is complete, of the caller's range and left as it
  /// is; out.size() = mine.num_elements(); `parts`: n + 1 ascending values up to out.size(), equal
  /// on all members (even_parts(), or a section of an optimizer's shards). After an error `out` is
  /// garbage and the communicator is dead.
  Status reduce_scatter(Communicator& comm, const Group& group, std::uint64_t tag,
                        const TreeAccumulator& mine, std::span<const std::size_t> parts,
                        std::span<float> out);
  /// As reduce_scatter, but on return all of `out` holds the sums on every member; `parts` cover
  /// it.
  Status all_reduce(Communicator& comm, const Group& group, std::uint64_t tag,
                    const TreeAccumulator& mine, std::span<const std::size_t> parts,
                    std::span<float> out);

  std::size_t workspace_bytes() const { return workspace_.size() * sizeof(float); }

 private:
  using Transfers = std::vector<std::unique_ptr<Transfer>>;

  explicit TreeReducer(TreeReduceOptions options);
  void post_segment(Communicator& comm, const Group& group, std::uint64_t tag,
                    const TreeAccumulator& mine, std::span<const std::size_t> parts,
                    std::size_t segment);
  Status finish_segment(const TreeAccumulator& mine, std::span<const std::size_t> parts,
                        std::size_t segment, std::span<float> out);
  float* workspace(std::size_t half, std::size_t remote) {
    return workspace_.data() + (half * num_remote_ + remote) * segment_elements_;
  }

  TreeReduceOptions options_;
  std::vector<Subtree> trees_;       // of all members, ascending
  std::vector<TreeSource> sources_;  // of trees_; `remote` is the place in a workspace half
  std::size_t num_remote_ = 0;
  std::size_t segment_elements_ = 0;
  std::vector<float> workspace_;  // two halves
  Transfers transfers_[2];        // by half
  std::vector<const float*> inputs_;
  std::vector<std::size_t> part_bytes_;
};

}  // namespace tenax::compute
