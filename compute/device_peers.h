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

/// One generation's connections of one rank. exchange and status: the engine's thread. abort: any.
class DevicePeers {
 public:
  virtual ~DevicePeers() = default;
  /// Transfers between two ranks match in the order of the calls and within a call. Begins after
  /// the device's work queued so far; work queued later finds the bytes there. kAborted,
  /// kUnavailable (a peer or the network), kDeviceLost: dead from then on.
  virtual Status exchange(std::span<const DeviceTransfer> transfers) = 0;
  /// After the device was waited for: whether what was exchanged is right.
  virtual Status status() = 0;
  /// Ends whatever waits, here and on the device. Returns at once; idempotent.
  virtual void abort(std::string reason) = 0;
};

}  // namespace tenax::compute
