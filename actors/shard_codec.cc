#include "actors/shard_codec.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "checkpoint/manifest.h"

using nlohmann::json;

namespace tenax::actors {

namespace {

json binary(const std::string& s) { return json::binary({s.begin(), s.end()}); }

std::string text(const json& j) {
  const auto& b = j.get_binary();
  return {b.begin(), b.end()};
}

}  // namespace

std::string encode_shard_files(const checkpoint::ShardFiles& files) {
  // The shards travel as a manifest that holds nothing else: its encoding has a format version and
  // a hash.
  checkpoint::Manifest shards;
  shards.shards = files.shards;
  shards.chunk_bytes = files.chunk_bytes;
  json j = {{"shards", binary(checkpoint::encode_manifest(shards))}, {"files", json::array()}};
  for (const checkpoint::ShardFile& f : files.files) {
    j["files"].push_back(
        {{"path", f.path}, {"name", f.name}, {"bytes", f.bytes}, {"num_chunks", f.num_chunks}});
  }
  std::string out;
  json::to_cbor(j, out);
  return out;
}

Result<checkpoint::ShardFiles> decode_shard_files(std::string_view bytes) {
  try {
    const json j = json::from_cbor(bytes.begin(), bytes.end());
    TENAX_TRY(const checkpoint::Manifest shards, checkpoint::decode_manifest(text(j.at("shards"))));
    checkpoint::ShardFiles files;
    files.shards = shards.shards;
    files.chunk_bytes = shards.chunk_bytes;
    for (const json& f : j.at("files")) {
      checkpoint::ShardFile file;
      file.path = f.at("path");
      file.name = f.at("name");
      file.bytes = f.at("bytes");
      file.num_chunks = f.at("num_chunks");
      files.files.push_back(std::move(file));
    }
    return files;
  } catch (const json::exception& e) {
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("a list of checkpoint files is malformed: {}", e.what()));
  }
}

}  // namespace tenax::actors
