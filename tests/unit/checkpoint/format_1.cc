#include "tests/unit/checkpoint/format_1.h"

#include <rocksdb/sst_file_writer.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <tuple>

#include "checkpoint/box.h"
#include "checkpoint/rocks_db.h"
#include "checkpoint/shard_key.h"
#include "checkpoint/tensor_hash.h"

namespace tenax::checkpoint {

namespace {

constexpr std::size_t kChunk = 4096;

Status check(const rocksdb::Status& status) { return to_status(status, "write", "format 1"); }

}  // namespace

Result<Manifest> save_in_format_1(const std::string& run_path, std::uint64_t id,
                                  const Model& model) {
  { TENAX_TRY(const auto made, Store::open(run_path, store_options())); }
  std::filesystem::create_directories(shards_path(run_path));
  TENAX_TRY(Rocks shards, open_shards(shards_path(run_path), OpenAs::kPrimary, nullptr));
  const rocksdb::Options options = shard_file_options(nullptr);
  rocksdb::SstFileWriter writer(rocksdb::EnvOptions(options), options);
  const std::string path = run_path + "/staging/old.sst";
  TENAX_RETURN_IF_ERROR(check(writer.Open(path)));

  Manifest m;
  m.checkpoint_id = id;
  m.run_id = "test";
  m.chunk_bytes = kChunk;
  std::map<std::string, std::string> values;
  for (const LogicalTensor& t : model) {
    StoredShard s;
    s.shard = {t.name, t.kind, DType::kFloat32, t.shape, whole(t.shape), 0, 4 * t.values.size()};
    s.writer = "r0";
    const auto bytes = std::as_bytes(std::span(t.values));
    std::vector<Hash128> hashes;
    for (std::size_t at = 0; at < bytes.size(); at += kChunk) {
      const auto chunk = bytes.subspan(at, std::min(kChunk, bytes.size() - at));
      Chunk stored;
      stored.bytes = static_cast<std::uint32_t>(chunk.size());
      stored.hash = hash128(chunk);
      values[encode_key(
          {id, "r0", t.kind, t.name, 0, static_cast<std::uint32_t>(s.chunks.size())})] =
          std::string(reinterpret_cast<const char*>(chunk.data()), chunk.size());
      hashes.push_back(stored.hash);
      s.chunks.push_back(stored);
    }
    s.hash = shard_hash(hashes);
    m.shards.push_back(std::move(s));
  }
  for (const auto& [key, value] : values) {
    TENAX_RETURN_IF_ERROR(check(writer.Put(key, value)));
  }
  rocksdb::ExternalSstFileInfo info;
  TENAX_RETURN_IF_ERROR(check(writer.Finish(&info)));
  m.files.push_back({"", info.file_size, info.file_checksum, info.smallest_key, info.largest_key});
  rocksdb::IngestExternalFileOptions how;
  how.move_files = true;
  TENAX_RETURN_IF_ERROR(
      check(shards.db->IngestExternalFile(shards.db->DefaultColumnFamily(), {path}, how)));

  std::string encoded = encode_manifest(m);
  encoded[4] = 1;  // the format version; what was added since is as it was then: zero
  TENAX_TRY(const Rocks records, open_records(records_path(run_path), OpenAs::kPrimary, nullptr));
  rocksdb::WriteOptions synced;
  synced.sync = true;
  TENAX_RETURN_IF_ERROR(
      check(records.db->Put(synced, records.families[kManifests], encode_id(id), encoded)));
  TENAX_RETURN_IF_ERROR(
      check(records.db->Put(synced, records.families[kMeta], kHighestIdKey, encode_id(id))));
  return m;
}

}  // namespace tenax::checkpoint
