// The collectives inside a layer: ranks that share the matrices of a stage add up their partial
// results, each the rows of the residual stream that it has, and give each other the rows that
// products read. In a fixed order, so that a run repeats its own bits.
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

/// Adds up the members' data in group order.
class OrderedReducer {
 public:
  /// For up to `max_floats` of up to `max_members`, cut anywhere such that `max_members` times the
  /// longest part are no more than that.
  OrderedReducer(std::size_t max_floats, int max_members);

  // After an error of these `data` is garbage and the communicator dead.

  /// All members get all sums, with the same bits.
  Status all_reduce(Communicator& comm, const Group& group, std::uint64_t tag,
                    std::span<float> data);
  /// Member i gets the sums of elements [cuts[i], cuts[i + 1]), with all_reduce()'s bits; the rest
  /// of `data` stays what it was.
  Status reduce_scatter(Communicator& comm, const Group& group, std::uint64_t tag,
                        std::span<const std::size_t> cuts, std::span<float> data);
  /// The other half of all_reduce(): all members get elements [cuts[i], cuts[i + 1]) of member i.
  Status gather(Communicator& comm, const Group& group, std::uint64_t tag,
                std::span<const std::size_t> cuts, std::span<float> data);

 private:
  Status add_own_part(Communicator& comm, const Group& group, std::uint64_t tag,
                      std::span<const std::size_t> cuts, std::span<float> data);

  AlignedBuffer workspace_;  ///< one part of each member
  std::vector<std::size_t> cuts_;
  std::vector<std::size_t> byte_cuts_;
  std::vector<const float*> addends_;
  std::vector<std::unique_ptr<Transfer>> transfers_;
};

/// reduce_scatter() where each member has a GPU and reaches the others' (device_peers.h), with the
/// same bits. Allocates at its first use.
class DeviceOrderedReducer {
 public:
  explicit DeviceOrderedReducer(std::shared_ptr<Device> device) : device_(std::move(device)) {}

  /// `data` lies on the device.
  Status reduce_scatter(DevicePeers& peers, const Group& group, std::span<const std::size_t> cuts,
                        std::span<float> data);

 private:
  const std::shared_ptr<Device> device_;
  DeviceBuffer parts_;  ///< this member's part as each member has it, and their sum
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
  /// For up to `max_rows` rows of up to `max_width` floats, which lie on `device`.
  TensorGroup(std::vector<int> ranks, int index, std::int64_t max_rows, std::int64_t max_width,
              std::shared_ptr<Device> device = std::make_shared<HostDevice>());

  TensorPart part() const { return {static_cast<int>(ranks_.size()), index_}; }
  /// Records its collectives; may be null.
  void set_trace(StepTrace* trace) { trace_ = trace; }
  /// From now on transfers go through `comm`; forgets an earlier error.
  void use(Communicator& comm);
  /// From now on rows go from GPU to GPU; null: through the hosts' memory. The bits are the same.
  void use(DevicePeers* peers) { peers_ = peers; }
  const Status& status() const { return status_; }

  /// Of `all`, rows of `width` floats, this rank's (token_rows()) become the sums over the members
  /// in group order; the others are the caller's to overwrite.
  void reduce_scatter_rows(std::span<float> all, std::int64_t width);
  /// Every member's rows of `all`, from the member that has them.
  void gather_rows(std::span<float> all, std::int64_t width);
  /// Of host memory: `all` receives the members' `mine` in group order.
  void all_gather(std::span<const double> mine, std::span<double> all);

 private:
  Group group() const { return {ranks_, index_}; }
  /// Where each member's rows of `all` begin, and the end.
  void cut_rows(std::span<const float> all, std::int64_t width);
  std::span<float> own_part(std::span<float> all) const {
    const auto i = static_cast<std::size_t>(index_);
    return all.subspan(cuts_[i], cuts_[i + 1] - cuts_[i]);
  }
  Status reduce_scatter(std::span<float> all);
  Status gather(std::span<float> all);

  std::vector<int> ranks_;
  int index_;
  Staging staging_;
  OrderedReducer reducer_;
  DeviceOrderedReducer device_reducer_;
  std::vector<std::size_t> cuts_;
  Communicator* comm_ = nullptr;
  DevicePeers* peers_ = nullptr;
  StepTrace* trace_ = nullptr;
  Status status_;
};

}  // namespace tenax::compute
