// Writes sealed slots out as chunk files, off the training path. A detached actor of the agent: it
// blocks for the disk.
#pragma once

#include <caf/all.hpp>
#include <cstdint>
#include <filesystem>
#include <string>
#include <variant>

#include "checkpoint/shard_writer.h"
#include "wire/message.h"

namespace tenax::actors {

/// A sealed slot to write; the answer is a SlotWritten.
struct WriteSlot {
  std::uint64_t generation = 0;
  std::uint32_t worker_slot = 0;
  std::uint64_t worker_incarnation = 0;
  wire::SnapshotSealed sealed;
};

struct SlotWritten {
  std::uint64_t generation = 0;
  std::uint32_t worker_slot = 0;
  std::uint64_t worker_incarnation = 0;
  wire::Body answer;  ///< ShardWritten or ShardFailed
};

/// The id of the checkpoint that a snapshot becomes part of: rises with generation and step, never
/// used twice.
constexpr std::uint64_t checkpoint_id(std::uint64_t generation, std::int64_t step) {
  return (generation << 32) | static_cast<std::uint64_t>(step);
}

struct SlotWriterOptions {
  std::filesystem::path run_dir;
  std::string run_id;
  std::uint32_t agent = 0;
  int num_threads = 1;
  checkpoint::Compression compression = checkpoint::Compression::kNone;
  rocksdb::Env* env = nullptr;  ///< null: the machine's files
};

void slot_writer(caf::blocking_actor* self, SlotWriterOptions options, caf::actor parent);

}  // namespace tenax::actors

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::WriteSlot)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::SlotWritten)
