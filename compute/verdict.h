// The verdict exchange: the last collective before a weight changes. Every rank contributes what it
// knows of the step and gets what all know, so that all give the same verdict from the same
// numbers. Sums follow one canonical order (microbatches ascending, tensors in the model's order,
// doubles), whatever the layout (T2). Value types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/hash.h"
#include "common/result.h"
#include "compute/collectives.h"
#include "compute/communicator.h"

namespace tenax::compute {

/// What one rank contributes. The spans are into the memory of whoever knows.
struct VerdictPart {
  std::int64_t step = 0;
  Hash128 plan_digest;              ///< all ranks must follow the same plan
  std::int64_t newest_command = 0;  ///< it has all commands up to this number
  bool slot_free = true;            ///< it could take a snapshot now
  bool differs = false;  ///< of a step computed again: its own gradients are not those of before
  /// Loss sums and target counts of its microbatches, ascending; zeros where it is not the last
  /// stage.
  std::span<const double> loss_sums;
  std::span<const std::int64_t> target_counts;
  /// Sums of squares of its reduced gradient, by tensor in the model's order.
  std::span<const double> square_sums;
};

/// Which ranks' numbers count, and how large the parts are. Equal on all ranks.
struct VerdictShape {
  std::size_t max_microbatches = 0;  ///< of any rank
  std::size_t max_tensors = 0;       ///< of any stage
  struct LossSource {
    int rank = 0;
    std::size_t num_microbatches = 0;
  };
  std::vector<LossSource>
      losses;  ///< last-stage ranks in replica order: their microbatches ascend over the list
  struct NormSource {
    int rank = 0;
    std::vector<std::size_t>
        tensors;  ///< none that an earlier source holds too (a tied embedding counts once)
  };
  std::vector<NormSource> norms;  ///< of one replica, tensors in the model's order
};

/// What every rank knows afterwards.
struct Verdict {
  std::int64_t step = 0;
  double loss = 0;  ///< mean over targets; NaN if there are none
  std::int64_t targets = 0;
  double grad_norm = 0;      ///< of the mean gradient, before clipping
  bool finite = true;        ///< loss and norm
  bool slots_free = true;    ///< on all ranks
  std::int64_t command = 0;  ///< all ranks have all commands up to this number
  int num_differing = 0;     ///< ranks whose own gradients differ from the first computation's
  int differing_rank = -1;   ///< the first of them
  /// Means, in replica order; empty for one replica. In the exchange's memory until its next run.
  std::span<const double> replica_losses;
};

class VerdictExchange {
 public:
  VerdictExchange(int world_size, int rank, VerdictShape shape);

  /// One all-gather over the world. kInternal if ranks disagree about step or plan; else the
  /// communicator's errors.
  Result<Verdict> run(Communicator& comm, std::uint64_t tag, const VerdictPart& mine);

 private:
  std::vector<int> ranks_;
  int rank_;
  VerdictShape shape_;
  std::size_t block_ = 0;
  std::vector<double> mine_;
  std::vector<double> all_;
  std::vector<double> replica_losses_;
};

}  // namespace tenax::compute
