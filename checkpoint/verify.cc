#include "checkpoint/verify.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <utility>

#include "checkpoint/box.h"
#include "checkpoint/chunk_folder.h"
#include "checkpoint/direct_io.h"
#include "checkpoint/reader.h"
#include "checkpoint/rocks_db.h"
#include "checkpoint/shard_key.h"
#include "checkpoint/tensor_hash.h"

namespace tenax::checkpoint {

namespace {

std::string label(const StoredShard& s) {
  return fmt::format("{} '{}' {} of writer {}", s.shard.kind, s.shard.name, to_string(s.shard.box),
                     s.writer);
}

void check_chunks(const Manifest& manifest, const StoredShard& s,
                  std::vector<std::string>& problems) {
  std::uint64_t bytes = 0;
  std::vector<Hash128> hashes;
  for (std::size_t i = 0; i < s.chunks.size(); ++i) {
    bytes += s.chunks[i].bytes;
    hashes.push_back(s.chunks[i].hash);
    if (i + 1 < s.chunks.size() && s.chunks[i].bytes != manifest.chunk_bytes) {
      problems.push_back(fmt::format("{}: chunk {} has {} bytes, expected {}", label(s), i,
                                     s.chunks[i].bytes, manifest.chunk_bytes));
    }
  }
  if (bytes != s.shard.bytes) {
    problems.push_back(
        fmt::format("{}: chunks add up to {} bytes, expected {}", label(s), bytes, s.shard.bytes));
  }
  if (shard_hash(hashes) != s.hash) {
    problems.push_back(fmt::format("{}: hash is not that of its chunks", label(s)));
  }
}

/// Format 2: every chunk lies within a file of the manifest.
void check_places(const Manifest& manifest, const StoredShard& s,
                  std::vector<std::string>& problems) {
  for (std::size_t i = 0; i < s.chunks.size(); ++i) {
    const Chunk& c = s.chunks[i];
    const std::uint64_t bytes = c.stored_bytes != 0 ? c.stored_bytes : c.bytes;
    if (c.file < manifest.files.size() && c.file_offset >= kChunkAlignment &&
        c.file_offset + bytes <= manifest.files[c.file].bytes) {
      continue;
    }
    problems.push_back(fmt::format("{}: no file of the manifest holds chunk {}", label(s), i));
    return;
  }
}

/// Format 1. `files` sorted by first_key.
void check_files_hold(const Manifest& manifest, const std::vector<StoredFile>& files,
                      const StoredShard& s, std::vector<std::string>& problems) {
  if (s.chunks.empty()) return;
  const auto held = [&](std::uint32_t chunk) {
    const std::string key =
        encode_key({manifest.checkpoint_id, s.writer, s.shard.kind, s.shard.name, s.part, chunk});
    const auto after =
        std::upper_bound(files.begin(), files.end(), key,
                         [](const std::string& k, const StoredFile& f) { return k < f.first_key; });
    return after != files.begin() && key <= std::prev(after)->last_key;
  };
  if (!held(0) || !held(static_cast<std::uint32_t>(s.chunks.size() - 1))) {
    problems.push_back(fmt::format("{}: no file of the manifest holds its keys", label(s)));
  }
}

void check_coverage(const std::vector<const StoredShard*>& shards,
                    std::vector<std::string>& problems) {
  const TensorShard& first = shards.front()->shard;
  std::vector<Box> missing;
  if (volume(whole(first.global_shape)) > 0) missing.push_back(whole(first.global_shape));
  for (const StoredShard* s : shards) {
    if (s->shard.global_shape != first.global_shape || s->shard.dtype != first.dtype) {
      problems.push_back(fmt::format("{}: shape {} differs from {} of writer {}", label(*s),
                                     to_string(whole(s->shard.global_shape)),
                                     to_string(whole(first.global_shape)), shards.front()->writer));
      return;
    }
    std::vector<Box> rest;
    for (const Box& box : missing) {
      const auto part = intersect(box, s->shard.box);
      if (!part) {
        rest.push_back(box);
      } else {
        for (Box& b : subtract(box, *part)) rest.push_back(std::move(b));
      }
    }
    missing = std::move(rest);
  }
  if (!missing.empty()) {
    problems.push_back(fmt::format("{} '{}': no shard holds {}", first.kind, first.name,
                                   to_string(missing.front())));
  }
}

/// Empty if the file is there with its size.
std::string check_file(const std::string& path, std::uint64_t bytes) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return fmt::format("{} is missing", path);
  if (static_cast<std::uint64_t>(info.st_size) == bytes) return {};
  return fmt::format("{}: expected {} bytes, got {}", path, bytes, info.st_size);
}

std::string check_sst_file(const std::map<std::string, LiveFile>& live,
                           const StoredFile& expected) {
  const auto it = live.find(expected.first_key);
  if (it == live.end() || it->second.last_key != expected.last_key) {
    const auto key = decode_key(expected.first_key);
    return fmt::format("the file that starts with {} is gone",
                       key ? describe(*key) : std::string("a malformed key"));
  }
  if (std::string wrong = check_file(it->second.path, expected.bytes); !wrong.empty()) return wrong;
  if (it->second.checksum == expected.checksum) return {};
  return fmt::format("{}: the store has another file checksum on record than the manifest",
                     it->second.path);
}

/// The first block of a chunk file says whose it is; no reader of tensors needs it.
std::string check_header(const std::string& path, const Manifest& manifest) {
  AlignedBuffer buffer;
  const auto file = RangeFile::open(path);
  if (!file) return file.error().message;
  const auto bytes = (*file)->read(0, kChunkAlignment, buffer);
  if (!bytes) return bytes.error().message;
  const std::string_view text(reinterpret_cast<const char*>(bytes->data()), bytes->size());
  for (const StoredShard& s : manifest.shards) {
    if (text == chunk_file_header(manifest.checkpoint_id, s.writer)) return {};
  }
  return path + ": the first block names another checkpoint or writer";
}

}  // namespace

std::vector<std::string> find_gaps(const Manifest& manifest) {
  std::vector<std::string> problems;
  std::vector<StoredFile> files = manifest.files;
  std::sort(files.begin(), files.end(),
            [](const StoredFile& a, const StoredFile& b) { return a.first_key < b.first_key; });
  std::map<std::pair<std::string, std::string>, std::vector<const StoredShard*>> tensors;
  for (const StoredShard& s : manifest.shards) {
    tensors[{s.shard.kind, s.shard.name}].push_back(&s);
    check_chunks(manifest, s, problems);
    const bool by_place = !s.chunks.empty() && s.chunks.front().file_offset != 0;
    if (by_place) {
      check_places(manifest, s, problems);
    } else {
      check_files_hold(manifest, files, s, problems);
    }
  }
  for (const auto& [key, shards] : tensors) check_coverage(shards, problems);
  return problems;
}

std::vector<std::string> check_files(const std::string& chunks_path,
                                     std::span<const LiveFile> sst_files,
                                     const Manifest& manifest) {
  std::map<std::string, LiveFile> live;
  for (const LiveFile& f : sst_files) live.emplace(f.first_key, f);
  std::vector<std::string> problems;
  for (const StoredFile& expected : manifest.files) {
    std::string wrong = expected.name.empty()
                            ? check_sst_file(live, expected)
                            : check_file(chunks_path + "/" + expected.name, expected.bytes);
    if (!wrong.empty()) problems.push_back(std::move(wrong));
  }
  return problems;
}

VerifyReport verify_checkpoint(const ChunkSource& source, const std::string& chunks_path,
                               std::span<const LiveFile> sst_files, const Manifest& manifest,
                               VerifyDepth depth) {
  VerifyReport report;
  report.checkpoint_id = manifest.checkpoint_id;
  report.num_files = manifest.files.size();
  report.problems = find_gaps(manifest);
  for (std::string& wrong : check_files(chunks_path, sst_files, manifest)) {
    report.problems.push_back(std::move(wrong));
  }
  if (depth == VerifyDepth::kFast) return report;

  for (const StoredFile& file : manifest.files) {
    if (file.name.empty()) continue;
    std::string wrong = check_header(chunks_path + "/" + file.name, manifest);
    if (!wrong.empty()) report.problems.push_back(std::move(wrong));
  }
  ChunkBuffer buffer;
  for (const StoredShard& s : manifest.shards) {
    for (std::uint32_t i = 0; i < s.chunks.size(); ++i) {
      const auto chunk = read_checked(source, manifest, s, i, buffer);
      if (chunk) {
        ++report.num_chunks;
        report.bytes += chunk->size();
      } else {
        report.problems.push_back(chunk.error().message);
      }
    }
  }
  return report;
}

}  // namespace tenax::checkpoint
