// The manifest: all that makes a set of chunks a checkpoint, and everything that steers training at
// its step. Only a manifest in the store makes a checkpoint exist. Plain values; encoded as Cap'n
// Proto behind a header with the format version and a content hash (docs/checkpoint-format.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/tensor_shard.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/result.h"
#include "common/run_types.h"

namespace tenax::checkpoint {

/// Raised when an older reader would misread a newer manifest; added fields do not raise it.
inline constexpr std::uint32_t kManifestFormat = 2;

/// `setting` has `value` from first_step to last_step, both inclusive.
struct ScheduleChange {
  std::string setting;
  double value = 0;
  std::int64_t first_step = 0;
  std::int64_t last_step = 0;
  bool operator==(const ScheduleChange&) const = default;
};

/// `branch` left `parent` after the parent's `step`.
struct BranchParent {
  std::uint64_t branch = 0;
  std::uint64_t parent = 0;
  std::int64_t step = 0;
  bool operator==(const BranchParent&) const = default;
};

/// Consecutive bytes of a shard.
struct Chunk {
  std::uint32_t bytes = 0;
  Hash128 hash;
  std::uint64_t file_offset = 0;   ///< 0: in format 1, a value of the shards database
  std::uint32_t file = 0;          ///< index into Manifest::files
  std::uint32_t stored_bytes = 0;  ///< of its zstd frame; 0: stored as it is
  bool operator==(const Chunk&) const = default;
};

/// A shard as it lies in the store.
struct StoredShard {
  TensorShard shard;  ///< offset is 0
  std::string writer;
  std::uint32_t part = 0;
  Hash128 hash;  ///< shard_hash() of its bytes
  std::vector<Chunk> chunks;
  bool operator==(const StoredShard&) const = default;
};

/// A file of the checkpoint. Those of format 1 are SST files, which have no name but a key range.
struct StoredFile {
  std::string name;  ///< in the folder chunks/
  std::uint64_t bytes = 0;
  std::string checksum;  ///< format 1: RocksDB's file checksum, raw bytes
  std::string first_key;
  std::string last_key;
  bool operator==(const StoredFile&) const = default;
};

struct Manifest {
  std::uint64_t checkpoint_id = 0;
  std::string run_id;
  std::uint64_t branch = 0;
  std::vector<BranchParent> parents;  ///< of every branch so far
  std::int64_t step = 0;              ///< completed optimizer steps
  std::uint64_t generation = 0;
  std::int64_t sample_position = 0;  ///< first position that is not trained yet
  std::vector<SkipWindow> skip_windows;
  std::vector<ScheduleChange> schedule_changes;
  Hash128 config_digest;
  Hash128 data_digest;
  std::string layout;      ///< of the run that wrote it, for people
  std::string arithmetic;  ///< what decided bits besides the configuration; empty: not recorded
  Time created{};
  std::string run_state;  ///< the controller's JSON, opaque here
  std::uint64_t chunk_bytes = 0;
  std::vector<StoredShard> shards;
  std::vector<StoredFile> files;
  Hash128 weights_hash;  ///< hash_checkpoint(); all zero while not computed

  bool operator==(const Manifest&) const = default;
};

/// Bytes of all shards.
std::uint64_t total_bytes(const Manifest& manifest);

std::string encode_manifest(const Manifest& manifest);
/// kUnsupported, naming both versions, for a newer format; kDataLoss if the bytes are not what was
/// written.
Result<Manifest> decode_manifest(std::string_view bytes);

}  // namespace tenax::checkpoint
