// Where a rank takes the bytes of a checkpoint from, the nearest source first: this host's slot,
// the buddy's copy of it, the store. Each is judged by the manifest's hashes; one that has other
// bytes is named and the next is tried.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "actors/run_directory.h"
#include "checkpoint/manifest.h"
#include "checkpoint/tensor_shard.h"
#include "common/clock.h"
#include "common/result.h"

namespace tenax::actors {

/// Which tier served which bytes: for the journal.
struct RestoreSource {
  std::string text;  ///< a sentence: "12.3 MB from shared memory"
  /// "memory" (its own), "slot", "peer", "buddy", "store", "seed".
  std::map<std::string, std::uint64_t> bytes;
  std::string rejected;  ///< sources that had other bytes than the manifest says

  void served(const std::string& tier, std::uint64_t num_bytes, const std::string& from);
};

struct CheckpointRestoreOptions {
  RunDirectory directory{""};
  std::string run_id;
  std::uint32_t agent = 0;
  std::uint32_t slot = 0;
  std::uint64_t incarnation = 0;
  std::uint32_t num_agents = 1;
  bool has_buddy = false;  ///< checkpoint.buddy_copies
  Duration buddy_timeout = std::chrono::seconds(2);
  std::uint64_t checkpoint_id = 0;
  std::uint64_t branch = 0;  ///< of the checkpoint
  std::int64_t step = 0;
};

/// Fills `parts`, which one after the other are the payload that `table` describes. kDataLoss or
/// kNotFound: no source has the checkpoint's bytes. Blocks; memory is a constant.
Status restore_from_checkpoint(const CheckpointRestoreOptions& options,
                               std::span<const checkpoint::TensorShard> table,
                               std::span<const std::span<float>> parts, RestoreSource& source);

}  // namespace tenax::actors
