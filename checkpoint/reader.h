// Reads boxes of logical tensors out of a checkpoint, whatever layout wrote it. Every chunk that is
// used is compared with the hash in the manifest first; a chunk that fails is read from another
// shard that holds the same elements, if there is one. Immutable after construction; any number of
// threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/chunk_source.h"
#include "checkpoint/manifest.h"
#include "common/result.h"

namespace tenax::checkpoint {

struct ShardPart;
struct ChunkUse;

/// A logical tensor of a checkpoint.
struct TensorInfo {
  std::string kind;
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<std::int64_t> shape;
};

/// `out` gets the box, row-major; its size is the box's volume.
struct BoxRequest {
  std::string kind;
  std::string name;
  Box box;
  std::span<float> out;
};

class CheckpointReader {
 public:
  /// Keeps a reference to `source`, which must outlive the reader.
  CheckpointReader(const ChunkSource& source, Manifest manifest);
  CheckpointReader(CheckpointReader&&) = default;  // the index points into the manifest: no copies

  const Manifest& manifest() const { return manifest_; }
  /// Sorted by kind, then name.
  std::vector<TensorInfo> tensors() const;
  /// kNotFound if the checkpoint has no such tensor.
  Result<TensorInfo> tensor(const std::string& kind, const std::string& name) const;
  /// Bytes of all chunks that were read so far.
  std::uint64_t bytes_read() const;

  /// Reads only the chunks that hold elements of `box`. kNotFound: no such tensor;
  /// kInvalidArgument: box outside of the tensor or `out` of another size; kDataLoss, naming
  /// tensor, chunk and file: no sound copy of some element. `out` is undefined after an error.
  Status read_box(const std::string& kind, const std::string& name, const Box& box,
                  std::span<float> out) const;

  /// read_box() for many, the chunks of all of them on `num_threads` threads: the way to restore a
  /// worker. Memory: a chunk a thread.
  Status read_boxes(std::span<const BoxRequest> requests, int num_threads) const;

 private:
  using Key = std::pair<std::string, std::string>;

  Status check(const BoxRequest& request) const;
  /// The first shards, in the manifest's order, that together hold the box.
  Result<std::vector<ShardPart>> cover(const BoxRequest& request) const;
  Status read_chunk(const ShardPart& part, const ChunkUse& use, ChunkBuffer& buffer,
                    std::span<float> out) const;
  Status read_part(const ShardPart& part, std::span<float> out) const;
  /// Tries every shard that holds an element until one of them is sound.
  Status read_from_any(const BoxRequest& request) const;

  const ChunkSource& source_;
  Manifest manifest_;
  std::map<Key, std::vector<const StoredShard*>> index_;
  std::unique_ptr<std::atomic<std::uint64_t>> bytes_read_;
};

/// Reads chunk `index` of `shard` and compares size and hash; the error names tensor, chunk and
/// file.
Result<std::span<const std::byte>> read_checked(const ChunkSource& source, const Manifest& manifest,
                                                const StoredShard& shard, std::uint32_t index,
                                                ChunkBuffer& buffer);

/// One box without keeping a CheckpointReader.
Status read_tensor_box(const ChunkSource& source, const Manifest& manifest, const std::string& kind,
                       const std::string& name, const Box& box, std::span<float> out);

}  // namespace tenax::checkpoint
