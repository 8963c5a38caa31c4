#include "actors/checkpoint_restore.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "actors/buddy_fetch.h"
#include "actors/buddy_store.h"
#include "checkpoint/reader.h"
#include "checkpoint/slot.h"
#include "checkpoint/store_reader.h"
#include "checkpoint/tensor_hash.h"

namespace tenax::actors {

namespace {

using checkpoint::Manifest;
using checkpoint::TensorShard;
using Parts = std::span<const std::span<float>>;

constexpr int kReadThreads = 2;

/// `bytes` at `offset` of the payload; empty if they do not lie within one part.
std::span<float> at(Parts parts, std::uint64_t offset, std::uint64_t bytes) {
  for (const std::span<float> part : parts) {
    if (offset < part.size_bytes()) {
      if (bytes > part.size_bytes() - offset) return {};
      return part.subspan(offset / sizeof(float), bytes / sizeof(float));
    }
    offset -= part.size_bytes();
  }
  return {};
}

/// The manifest's shard for each of the table's; empty unless the checkpoint was written in these
/// boxes. If it was not, only the store can give them.
std::vector<const checkpoint::StoredShard*> same_boxes(std::span<const TensorShard> table,
                                                       const Manifest& manifest) {
  std::multimap<std::pair<std::string, std::string>, const checkpoint::StoredShard*> stored;
  for (const auto& s : manifest.shards) stored.insert({{s.shard.kind, s.shard.name}, &s});
  std::vector<const checkpoint::StoredShard*> same;
  for (const TensorShard& shard : table) {
    const auto [first, last] = stored.equal_range({shard.kind, shard.name});
    const auto it =
        std::find_if(first, last, [&](const auto& s) { return s.second->shard.box == shard.box; });
    if (it == last) return {};
    same.push_back(it->second);
  }
  return same;
}

/// Whether every shard of the table, in these parts, has the hash that the manifest gives for it.
bool has_hashes(Parts parts, std::span<const TensorShard> table, const Manifest& manifest,
                const std::vector<const checkpoint::StoredShard*>& stored) {
  for (std::size_t i = 0; i < table.size(); ++i) {
    const auto values = at(parts, table[i].offset, table[i].bytes);
    if (values.size_bytes() != table[i].bytes ||
        checkpoint::shard_hash(std::as_bytes(values), manifest.chunk_bytes) != stored[i]->hash) {
      return false;
    }
  }
  return true;
}

std::uint64_t size_of(Parts parts) {
  std::uint64_t bytes = 0;
  for (const std::span<float> part : parts) bytes += part.size_bytes();
  return bytes;
}

bool from_slot(const CheckpointRestoreOptions& o, Parts parts,
               const std::function<bool()>& is_right, RestoreSource& source) {
  const auto slot = checkpoint::find_sealed_slot(
      checkpoint::slot_prefix(o.run_id, fmt::format("a{}", o.agent), static_cast<int>(o.slot)),
      o.branch, o.step);
  if (!slot || slot->payload().size() != size_of(parts)) return false;
  std::size_t offset = 0;
  for (const std::span<float> part : parts) {
    if (!part.empty()) std::memcpy(part.data(), slot->payload().data() + offset, part.size_bytes());
    offset += part.size_bytes();
  }
  if (slot->still_sealed() && is_right()) {
    source.served("slot", size_of(parts), "from shared memory");
    return true;
  }
  source.rejected = "its slot in shared memory (not the bytes that the manifest names)";
  return false;
}

bool from_buddy(const CheckpointRestoreOptions& o, Parts parts,
                const std::function<bool()>& is_right, RestoreSource& source) {
  const std::uint32_t buddy = buddy_of(o.agent, o.num_agents);
  if (!o.has_buddy || buddy == o.agent) return false;
  const auto endpoint = o.directory.read_bulk_endpoint(buddy);
  const auto identity = o.directory.identity();
  if (!endpoint || !identity) return false;
  std::vector<std::span<std::byte>> bytes;
  for (const std::span<float> part : parts) bytes.push_back(std::as_writable_bytes(part));
  FetchCopyOptions fetch;
  fetch.endpoint = *endpoint;
  fetch.identity = *identity;
  fetch.id = {o.agent, o.slot, o.branch, o.step};
  fetch.name = fmt::format("fetch-a{}.{}.{}", o.agent, o.slot, o.incarnation);
  fetch.timeout = o.buddy_timeout;
  if (!fetch_copy(fetch, bytes)) return false;
  if (is_right()) {
    source.served("buddy", size_of(parts), fmt::format("from the copy on agent {}", buddy));
    return true;
  }
  source.rejected += fmt::format("{}the copy on agent {} (not the bytes that the manifest names)",
                                 source.rejected.empty() ? "" : ", ", buddy);
  return false;
}

}  // namespace

void RestoreSource::served(const std::string& tier, std::uint64_t num_bytes,
                           const std::string& from) {
  bytes[tier] += num_bytes;
  text += fmt::format("{}{:.1f} MB {}", text.empty() ? "" : ", ",
                      static_cast<double>(num_bytes) * 1e-6, from);
}

Status restore_from_checkpoint(const CheckpointRestoreOptions& o,
                               std::span<const TensorShard> table, Parts parts,
                               RestoreSource& source) {
  TENAX_TRY(const auto store, checkpoint::StoreReader::open_read_only(o.directory.path().string()));
  TENAX_TRY(const Manifest manifest, store->manifest(o.checkpoint_id));
  const auto stored = same_boxes(table, manifest);
  const auto is_right = [&] { return has_hashes(parts, table, manifest, stored); };
  if (!stored.empty()) {
    if (from_slot(o, parts, is_right, source)) return {};
    if (from_buddy(o, parts, is_right, source)) return {};
  }
  const checkpoint::CheckpointReader reader(*store, manifest);
  std::vector<checkpoint::BoxRequest> requests;
  for (const TensorShard& shard : table) {
    requests.push_back({shard.kind, shard.name, shard.box, at(parts, shard.offset, shard.bytes)});
  }
  TENAX_RETURN_IF_ERROR(reader.read_boxes(requests, kReadThreads));
  source.served("store", reader.bytes_read(), "from the store");
  return {};
}

}  // namespace tenax::actors
