// Compares a checkpoint with its manifest, and a manifest with itself.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/chunk_source.h"
#include "checkpoint/manifest.h"
#include "common/result.h"

namespace tenax::checkpoint {

struct LiveFile;

enum class VerifyDepth {
  kFast,  ///< metadata: every file is there with its size and checksum on record, every tensor is
          ///< covered
  kFull,  ///< and every byte has the hash in the manifest
};

struct VerifyReport {
  std::uint64_t checkpoint_id = 0;
  std::uint64_t num_files = 0;
  std::uint64_t num_chunks = 0;       ///< whose bytes were hashed; 0 for kFast
  std::uint64_t bytes = 0;            ///< of those
  std::vector<std::string> problems;  ///< each names the tensor or file

  bool ok() const { return problems.empty(); }
};

/// What is wrong with a manifest on its own: elements that no shard holds, shards that disagree
/// about a tensor, chunks that do not add up, keys outside of every file. Empty if nothing: then
/// "123 of 128 shards" is impossible.
std::vector<std::string> find_gaps(const Manifest& manifest);

/// What is wrong with the files of a manifest as they lie in `chunks_path` (or, of format 1, in the
/// shards database, which has `sst_files`): missing, or of another size. Reads no data.
std::vector<std::string> check_files(const std::string& chunks_path,
                                     std::span<const LiveFile> sst_files, const Manifest& manifest);

VerifyReport verify_checkpoint(const ChunkSource& source, const std::string& chunks_path,
                               std::span<const LiveFile> sst_files, const Manifest& manifest,
                               VerifyDepth depth);

}  // namespace tenax::checkpoint
