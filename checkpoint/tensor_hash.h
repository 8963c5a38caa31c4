// Content hashes of shards, tensors and whole checkpoints. The last two do not depend on layout,
// sharding or chunk size: two runs have the same weights if and only if (up to accident) their
// hashes are equal. Pure but for the reads.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/tensor_shard.h"
#include "common/hash.h"
#include "common/result.h"

namespace tenax::checkpoint {

class CheckpointReader;

/// 16 bytes, big endian, high word first (XXH128's canonical form).
std::array<char, 16> canonical_bytes(Hash128 hash);

/// Hash of a shard: of its chunks' hashes in order, in canonical form.
Hash128 shard_hash(std::span<const Hash128> chunk_hashes);
/// The same from the bytes, cut into chunks of `chunk_bytes`.
Hash128 shard_hash(std::span<const std::byte> bytes, std::uint64_t chunk_bytes);

/// A logical tensor and the hash of its bytes in row-major order, little endian.
struct TensorHash {
  std::string kind;
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<std::int64_t> shape;
  Hash128 hash;
  bool operator==(const TensorHash&) const = default;
};

/// Hash of a checkpoint's tensors: of the lines "kind\tname\tfloat32\t[2,3]\t<hex>\n" sorted by
/// (kind, name).
Hash128 combine(std::vector<TensorHash> tensors);

/// Reads every logical tensor of the checkpoint, a slab of rows at a time, on `num_threads`
/// threads.
Result<std::vector<TensorHash>> hash_tensors(const CheckpointReader& reader, int num_threads = 2);

/// combine(hash_tensors()): one number for parameters and optimizer state.
Result<Hash128> hash_checkpoint(const CheckpointReader& reader, int num_threads = 2);

}  // namespace tenax::checkpoint
