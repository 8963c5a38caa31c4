// The collectives inside a layer: ranks that share the matrices of a stage add up their partial
// results. In a fixed order, so that every member gets the same bits and a run repeats its own.
// Confined to the engine's thread; allocates in the constructor only (but for the transfers
// themselves).
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "common/result.h"
#include "compute/aligned_buffer.h"
#include "compute/collectives.h"
#include "compute/communicator.h"
#include "compute/tensor_part.h"

namespace tenax::compute {

/// data = the members' data added up in group order, on all members. `workspace` holds
/// all_reduce_workspace() floats.
Status all_reduce_sum(Communicator& comm, const Group& group, std::uint64_t tag,
                      std::span<float> data, std::span<float> workspace);
std::size_t all_reduce_workspace(std::size_t num_floats, int num_members);

/// Kernels call it in the middle of their work and have no way to fail, so an error is kept:
/// nothing more is sent, numbers are garbage, and status() says why.
class TensorGroup {
 public:
  /// `max_floats`: of the largest all_reduce().
  TensorGroup(std::vector<int> ranks, int index, std::size_t max_floats);

  TensorPart part() const { return {static_cast<int>(ranks_.size()), index_}; }
  /// From now on transfers go through `comm`; forgets an earlier error.
  void use(Communicator& comm);
  const Status& status() const { return status_; }

  void all_reduce(std::span<float> data);
  /// `all` receives the members' `mine` in group order.
  void all_gather(std::span<const double> mine, std::span<double> all);

 private:
  std::vector<int> ranks_;
  int index_;
  AlignedBuffer workspace_;
  Communicator* comm_ = nullptr;
  Status status_;
};

}  // namespace tenax::compute
