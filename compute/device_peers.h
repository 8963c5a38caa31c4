// What ranks with a GPU each exchange without their hosts in between: several transfers that begin
// together, from and to buffers of the device. Order of sums is the caller's
// (device_tree_reduce.h), so the bits are those of the host's collectives.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "common/result.h"

namespace tenax::compute {

enum class TransferKind : std::uint8_t { kSend, kRecv };

struct DeviceTransfer {
  TransferKind kind = TransferKind::kSend;
  int peer = 0;             ///< rank in the world
  std::span<float> buffer;  ///< on the device; as long as the peer's; not empty
};

/// One generation's connections of one rank. abort(): any thread; all else: the engine's.
class DevicePeers {
 public:
  virtual ~DevicePeers() = default;
  /// Begins transfers after the device's work queued so far; later work goes on beside them, and
  /// leaves their buffers alone until join(). Those between two ranks match in the order of the
  /// calls and within a call. kAborted, kUnavailable (a peer or the network), kDeviceLost: dead
  /// from then on.
  virtual Status begin(std::span<const DeviceTransfer> transfers) = 0;
  /// Work queued from now on finds all that was begun done.
  virtual Status join() = 0;
  Status exchange(std::span<const DeviceTransfer> transfers) {
    TENAX_RETURN_IF_ERROR(begin(transfers));
    return join();
  }
  /// After the device was waited for: whether what was exchanged is right.
  virtual Status status() = 0;
  /// Ends whatever waits, here and on the device. Returns at once; idempotent.
  virtual void abort(std::string reason) = 0;
  /// The orderly end, which all ranks make when nothing is under way. Does not block: true once all
  /// have or it has failed, false to be asked again. What was not ended so the destructor aborts.
  virtual bool finish() { return true; }
};

/// A pipeline stage's connections to the stages before and behind it, one for each way, so that no
/// transfer waits for one of another way. Of each the sender is rank 0, the receiver rank 1. Null
/// where there is none.
struct NeighbourPeers {
  DevicePeers* forward_in = nullptr;  ///< outputs of the stage before
  DevicePeers* forward_out = nullptr;
  DevicePeers* backward_in = nullptr;  ///< gradients from the stage behind
  DevicePeers* backward_out = nullptr;
  bool any() const { return forward_in != nullptr || forward_out != nullptr; }
};

}  // namespace tenax::compute
