// Sums the gradients of all replicas in the fixed tree over microbatches (microbatch_tree.h):
// bit-identical results for every number of replicas and every division of the microbatches among
// them (T2).
//
// The elements are cut into one piece a member. Every member sends its subtrees' values of piece p
// to member p, which adds all subtrees in the tree's order; that is a reduce-scatter. Sending each
// piece to all others makes it an all-reduce. A member with S subtrees sends S times what an
// ordinary reduce-scatter sends; S is 1 when the microbatches are divided into equal powers of two.
// Several reductions may be on their way: start() posts transfers and returns, so gradients travel
// while the rest of a backward is computed; finish() waits and adds.
//
// Confined to the engine's thread. Allocates in create() and reserve() only (but for the transfers
// themselves).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/result.h"
#include "compute/aligned_buffer.h"
#include "compute/collectives.h"
#include "compute/communicator.h"
#include "compute/microbatch_tree.h"
#include "compute/step_trace.h"
#include "compute/tree_accumulator.h"

namespace tenax::compute {

struct TreeReduceOptions {
  std::vector<MicrobatchRange> ranges;  ///< by group index; may be empty, disjoint, cover [0, M)
  int num_microbatches = 0;             ///< M
  int index = 0;                        ///< the caller's place in the group
  std::size_t max_workspace_bytes = 256 << 20;
  StepTrace* trace = nullptr;  ///< records each reduction, from start to end
};

/// Elements [begin, end) of the gradients.
struct GradientPiece {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::size_t size() const { return end - begin; }
  bool operator==(const GradientPiece&) const = default;
};

/// One reduction: equal on all members but for `mine` and `out`.
struct TreeReduction {
  const TreeAccumulator* mine = nullptr;  ///< of the caller's range
  std::span<float> out;                   ///< as long as mine->num_elements()
  std::vector<GradientPiece> pieces;      ///< by member: what it sums
  bool gather = false;                    ///< every member gets all sums, else those of its piece
  std::uint64_t tag = 0;                  ///< of no other reduction on its way
  std::int32_t number = -1;               ///< for the trace
};

/// Of all its pieces, for the trace.
std::uint64_t reduction_bytes(const TreeReduction& reduction);

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
  /// Floats of the longest piece of which all members can receive all subtrees in the workspace.
  std::size_t max_piece() const;
  /// Bytes that all of `reductions` on their way need at once.
  std::size_t wanted_bytes(std::span<const TreeReduction> reductions) const;
  /// Workspace of so many bytes, at most the options' limit, and room for so many reductions.
  void reserve(std::size_t bytes, std::size_t num_reductions);

  /// Posts the transfers of a reduction that is none of those on their way. What `mine` has in the
  /// pieces is final and stays as it is until finish(); `out` and the reduction stay where they
  /// are. Blocks only while there is no workspace left, for the oldest on their way.
  Status start(Communicator& comm, const Group& group, const TreeReduction& reduction);
  /// Ends all reductions on their way: out[j] = the sum of all microbatches' gradient j, for j in
  /// the own piece, or with `gather` in all pieces; the rest of `out` is untouched. After an error
  /// `out` is garbage and the communicator is dead.
  Status finish(Communicator& comm, const Group& group);
  /// Forgets what a failed step left on its way.
  void abandon() { flights_.clear(); }

  std::size_t workspace_bytes() const { return workspace_.size() * sizeof(float); }

 private:
  /// A reduction on its way.
  struct Flight {
    const TreeReduction* reduction = nullptr;
    std::size_t begin = 0;  ///< of its workspace, in floats
    std::size_t end = 0;
    Time started{};
    std::vector<std::unique_ptr<Transfer>> transfers;
  };
  /// Flights of a step in the order of their start. Clearing keeps their memory.
  struct Flights {
    std::vector<Flight> all;
    std::size_t num = 0;
    std::size_t num_summed = 0;  ///< of the first: only the gathering is left
    void clear();
  };

  explicit TreeReducer(TreeReduceOptions options);
  const GradientPiece& own_piece(const TreeReduction& r) const {
    return r.pieces[static_cast<std::size_t>(options_.index)];
  }
  /// Takes workspace for the next flight; false if there is none left.
  bool take_workspace(std::size_t floats, Flight& flight) const;
  void post(Communicator& comm, const Group& group, Flight& flight);
  Status sum_oldest(Communicator& comm, const Group& group);
  void post_gather(Communicator& comm, const Group& group, Flight& flight);

  TreeReduceOptions options_;
  std::vector<Subtree> trees_;       // of all members, ascending
  std::vector<TreeSource> sources_;  // of trees_; `remote` is the place in a workspace
  std::size_t num_remote_ = 0;
  AlignedBuffer workspace_;
  Flights flights_;
  std::vector<const float*> inputs_;
};

}  // namespace tenax::compute
