#include "checkpoint/manifest.h"

#include "checkpoint/capnp_shard.h"
#include "checkpoint/tensor_hash.h"

namespace tenax::checkpoint {

namespace {

constexpr std::string_view kMagic = "TNXM";
// magic, format version (u32, little endian), hash of the rest (16 bytes, big endian), then the
// Cap'n Proto message.
constexpr std::size_t kPrefixBytes = 4 + 4 + 16;

void put_hash(Hash128 from, schema::Hash::Builder to) {
  to.setHigh(from.high);
  to.setLow(from.low);
}

Hash128 get_hash(schema::Hash::Reader from) { return {from.getHigh(), from.getLow()}; }

capnp::Data::Reader data(const std::string& bytes) {
  return {reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()};
}

std::string text(capnp::Data::Reader bytes) {
  return {reinterpret_cast<const char*>(bytes.begin()), bytes.size()};
}

template <class T>
unsigned count(const std::vector<T>& v) {
  return static_cast<unsigned>(v.size());
}

void write_steering(const Manifest& m, schema::Manifest::Builder to) {
  to.setCheckpointId(m.checkpoint_id);
  to.setRunId(m.run_id);
  to.setBranch(m.branch);
  auto parents = to.initParents(count(m.parents));
  for (unsigned i = 0; i < m.parents.size(); ++i) {
    parents[i].setBranch(m.parents[i].branch);
    parents[i].setParent(m.parents[i].parent);
    parents[i].setStep(m.parents[i].step);
  }
  to.setStep(m.step);
  to.setGeneration(m.generation);
  to.setSamplePosition(m.sample_position);
  auto windows = to.initSkipWindows(count(m.skip_windows));
  for (unsigned i = 0; i < m.skip_windows.size(); ++i) {
    windows[i].setBegin(m.skip_windows[i].begin);
    windows[i].setEnd(m.skip_windows[i].end);
  }
  auto changes = to.initScheduleChanges(count(m.schedule_changes));
  for (unsigned i = 0; i < m.schedule_changes.size(); ++i) {
    changes[i].setSetting(m.schedule_changes[i].setting);
    changes[i].setValue(m.schedule_changes[i].value);
    changes[i].setFirstStep(m.schedule_changes[i].first_step);
    changes[i].setLastStep(m.schedule_changes[i].last_step);
  }
  put_hash(m.config_digest, to.initConfigDigest());
  put_hash(m.data_digest, to.initDataDigest());
  to.setLayout(m.layout);
  to.setArithmetic(m.arithmetic);
  to.setCreatedNs(m.created.time_since_epoch().count());
  to.setRunState(m.run_state);
}

void write_contents(const Manifest& m, schema::Manifest::Builder to) {
  to.setChunkBytes(m.chunk_bytes);
  auto shards = to.initShards(count(m.shards));
  for (unsigned i = 0; i < m.shards.size(); ++i) {
    const StoredShard& from = m.shards[i];
    write_shard_fields(from.shard, shards[i].initShard());
    shards[i].setWriter(from.writer);
    shards[i].setPart(from.part);
    put_hash(from.hash, shards[i].initHash());
    auto chunks = shards[i].initChunks(count(from.chunks));
    for (unsigned c = 0; c < from.chunks.size(); ++c) {
      chunks[c].setBytes(from.chunks[c].bytes);
      chunks[c].setHashHigh(from.chunks[c].hash.high);
      chunks[c].setHashLow(from.chunks[c].hash.low);
      chunks[c].setFileOffset(from.chunks[c].file_offset);
      chunks[c].setFile(from.chunks[c].file);
      chunks[c].setStoredBytes(from.chunks[c].stored_bytes);
    }
  }
  auto files = to.initFiles(count(m.files));
  for (unsigned i = 0; i < m.files.size(); ++i) {
    files[i].setName(m.files[i].name);
    files[i].setBytes(m.files[i].bytes);
    files[i].setChecksum(data(m.files[i].checksum));
    files[i].setFirstKey(data(m.files[i].first_key));
    files[i].setLastKey(data(m.files[i].last_key));
  }
  put_hash(m.weights_hash, to.initWeightsHash());
}

void read_steering(schema::Manifest::Reader from, Manifest& m) {
  m.checkpoint_id = from.getCheckpointId();
  m.run_id = from.getRunId().cStr();
  m.branch = from.getBranch();
  for (const auto p : from.getParents()) {
    m.parents.push_back({p.getBranch(), p.getParent(), p.getStep()});
  }
  m.step = from.getStep();
  m.generation = from.getGeneration();
  m.sample_position = from.getSamplePosition();
  for (const auto w : from.getSkipWindows()) m.skip_windows.push_back({w.getBegin(), w.getEnd()});
  for (const auto c : from.getScheduleChanges()) {
    m.schedule_changes.push_back(
        {c.getSetting().cStr(), c.getValue(), c.getFirstStep(), c.getLastStep()});
  }
  m.config_digest = get_hash(from.getConfigDigest());
  m.data_digest = get_hash(from.getDataDigest());
  m.layout = from.getLayout().cStr();
  m.arithmetic = from.getArithmetic().cStr();
  m.created = Time(Duration(from.getCreatedNs()));
  m.run_state = from.getRunState().cStr();
}

Status read_contents(schema::Manifest::Reader from, Manifest& m) {
  m.chunk_bytes = from.getChunkBytes();
  m.shards.reserve(from.getShards().size());
  for (const auto s : from.getShards()) {
    StoredShard& to = m.shards.emplace_back();
    TENAX_TRY(to.shard, read_shard_fields(s.getShard()));
    TENAX_RETURN_IF_ERROR(validate(to.shard, to.shard.offset + to.shard.bytes));
    to.writer = s.getWriter().cStr();
    to.part = s.getPart();
    to.hash = get_hash(s.getHash());
    to.chunks.reserve(s.getChunks().size());
    for (const auto c : s.getChunks()) {
      to.chunks.push_back({c.getBytes(),
                           {c.getHashHigh(), c.getHashLow()},
                           c.getFileOffset(),
                           c.getFile(),
                           c.getStoredBytes()});
    }
  }
  for (const auto f : from.getFiles()) {
    m.files.push_back({f.getName().cStr(), f.getBytes(), text(f.getChecksum()),
                       text(f.getFirstKey()), text(f.getLastKey())});
  }
  m.weights_hash = get_hash(from.getWeightsHash());
  return {};
}

}  // namespace

std::uint64_t total_bytes(const Manifest& manifest) {
  std::uint64_t bytes = 0;
  for (const StoredShard& s : manifest.shards) bytes += s.shard.bytes;
  return bytes;
}

std::string encode_manifest(const Manifest& manifest) {
  capnp::MallocMessageBuilder message;
  auto root = message.initRoot<schema::Manifest>();
  write_steering(manifest, root);
  write_contents(manifest, root);
  const std::string body = flat_bytes(message);

  std::string out(kMagic);
  for (int shift = 0; shift < 32; shift += 8) {
    out.push_back(static_cast<char>(kManifestFormat >> shift));
  }
  const auto hash = canonical_bytes(hash128(body));
  out.append(hash.data(), hash.size());
  return out + body;
}

Result<Manifest> decode_manifest(std::string_view bytes) {
  if (bytes.size() < kPrefixBytes || bytes.substr(0, 4) != kMagic) {
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("{} bytes do not start like a manifest", bytes.size()));
  }
  std::uint32_t format = 0;
  for (int i = 0; i < 4; ++i) {
    format |= static_cast<std::uint32_t>(
                  static_cast<unsigned char>(bytes[4 + static_cast<std::size_t>(i)]))
              << (8 * i);
  }
  if (format > kManifestFormat) {
    return make_error(ErrorCode::kUnsupported,
                      fmt::format("manifest has format version {}, this program reads up to {}: "
                                  "use a newer Tenax",
                                  format, kManifestFormat));
  }
  if (format == 0) return make_error(ErrorCode::kDataLoss, "manifest has format version 0");
  const std::string_view body = bytes.substr(kPrefixBytes);
  const auto hash = canonical_bytes(hash128(body));
  if (bytes.substr(8, 16) != std::string_view(hash.data(), hash.size())) {
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("manifest of {} bytes does not have the hash it was written with",
                                  bytes.size()));
  }
  return read_flat<schema::Manifest>(body, "manifest",
                                     [](schema::Manifest::Reader root) -> Result<Manifest> {
                                       Manifest m;
                                       read_steering(root, m);
                                       TENAX_RETURN_IF_ERROR(read_contents(root, m));
                                       return m;
                                     });
}

}  // namespace tenax::checkpoint
