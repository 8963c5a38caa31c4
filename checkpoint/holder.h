// Who holds a store. RocksDB's LOCK is the lease; this file beside it says whose it is, for the
// message that a second opener gets and for the takeover of a dead supervisor.
#pragma once

#include <cstdint>
#include <string>

#include "common/clock.h"
#include "common/result.h"

namespace tenax::checkpoint {

struct HolderInfo {
  std::string host;
  std::int64_t pid = 0;
  std::uint64_t term = 0;
  Time started{};
  bool operator==(const HolderInfo&) const = default;
};

/// "pid 123 on node7, term 4, since 2026-11-23T14:02:02.125Z"
std::string describe(const HolderInfo& holder);

/// Replaces <run_path>/HOLDER atomically and durably. Only whoever has the LOCK may.
Status write_holder(const std::string& run_path, const HolderInfo& holder);
/// The last holder, dead or alive. kNotFound: never held; kDataLoss: not readable.
Result<HolderInfo> read_holder(const std::string& run_path);

}  // namespace tenax::checkpoint
