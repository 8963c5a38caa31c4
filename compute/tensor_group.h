// The collectives inside a layer: ranks that share the matrices of a stage add up their partial
// results. In a fixed order, so that every member gets the same bits and a run repeats its own.
// Confined to the engine's thread; allocates in the constructor only (but for the transfers
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
#include "compute/device.h"
#include "compute/device_peers.h"
#include "compute/staging.h"
#include "compute/step_trace.h"
#include "compute/tensor_part.h"

namespace tenax::compute {

/// Adds up the members' data in group order, with the same bits on all of them.
class OrderedAllReduce {
 public:
  /// For up to `max_floats` of up to `max_members`.
  OrderedAllReduce(std::size_t max_floats, int max_members);

  /// After an error `data` is garbage and the communicator dead.
  Status run(Communicator& comm, const Group& group, std::uint64_t tag, std::span<float> data);

 private:
  Status reduce_own_part(Communicator& comm, const Group& group, std::uint64_t tag,
                         std::span<float> data);

  AlignedBuffer workspace_;  ///< one part of each member
  std::vector<std::size_t> cuts_;
  std::vector<std::size_t> byte_cuts_;
  std::vector<const float*> addends_;
  std::vector<std::unique_ptr<Transfer>> transfers_;
};

/// The same where each member has a GPU and reaches the others' (device_peers.h), with the same
/// bits. Allocates at its first use.
class DeviceOrderedAllReduce {
 public:
  explicit DeviceOrderedAllReduce(std::shared_ptr<Device> device) : device_(std::move(device)) {}

  /// `data` lies on the device.
  Status run(DevicePeers& peers, const Group& group, std::span<float> data);

 private:
  const std::shared_ptr<Device> device_;
  DeviceBuffer parts_;  ///< this member's part as each member has it, and their sum
  std::vector<std::size_t> cuts_;
  std::vector<DeviceTransfer> transfers_;
};

/// One row's part of the cross-entropy where ranks share the vocabulary, or its whole.
struct VocabularySum {
  double log_sum = 0;    ///< of the logits
  double at_target = 0;  ///< the target's logit; 0 where it is another's
};

/// Of row `row` from the members' parts (member, row), `rows` rows each, in one order.
VocabularySum whole_vocabulary(std::span<const double> parts, std::int64_t rows, std::int64_t row);

/// Kernels call it in the middle of their work and have no way to fail, so an error is kept:
/// nothing more is sent, numbers are garbage, and status() says why.
class TensorGroup {
 public:
  /// `max_floats`: of the largest all_reduce(), whose data lies on `device`.
  TensorGroup(std::vector<int> ranks, int index, std::size_t max_floats,
              std::shared_ptr<Device> device = std::make_shared<HostDevice>());

  TensorPart part() const { return {static_cast<int>(ranks_.size()), index_}; }
  /// Records its collectives; may be null.
  void set_trace(StepTrace* trace) { trace_ = trace; }
  /// From now on transfers go through `comm`; forgets an earlier error.
  void use(Communicator& comm);
  /// From now on sums go from GPU to GPU; null: through the hosts' memory. The bits are the same.
  void use(DevicePeers* peers) { peers_ = peers; }
  const Status& status() const { return status_; }

  void all_reduce(std::span<float> data);
  /// Of host memory: `all` receives the members' `mine` in group order.
  void all_gather(std::span<const double> mine, std::span<double> all);

 private:
  std::vector<int> ranks_;
  int index_;
  Status reduce(std::span<float> data);

  Staging staging_;
  OrderedAllReduce all_reduce_;
  DeviceOrderedAllReduce device_all_reduce_;
  Communicator* comm_ = nullptr;
  DevicePeers* peers_ = nullptr;
  StepTrace* trace_ = nullptr;
  Status status_;
};

}  // namespace tenax::compute
