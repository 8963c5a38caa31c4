#include "checkpoint/shard_writer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "checkpoint/chunk_folder.h"
#include "checkpoint/tensor_hash.h"
#include "tests/unit/checkpoint/model_on_disk.h"

namespace tenax::checkpoint {
namespace {

ShardWriteRequest request(const std::string& staging, const WriterPart& part) {
  return {staging, 7, part.writer, part.table, part.payload, small_files()};
}

WriterPart some_part() {
  std::mt19937_64 rng(1);
  return random_layout(random_model(2), 1, rng)[0];
}

TEST(ShardWriter, FilesOfAllWritersHaveDifferentNamesThatBeginWithTheCheckpoint) {
  const TempDir dir;
  std::mt19937_64 rng(1);
  std::set<std::string> names;
  std::size_t num_files = 0;
  for (const std::uint64_t id : {7u, 8u}) {
    for (const WriterPart& part : random_layout(random_model(2), 3, rng)) {
      auto r = request(dir.path(), part);
      r.checkpoint_id = id;
      const auto written = write_shard(r);
      ASSERT_OK(written);
      num_files += written->files.size();
      for (const ShardFile& f : written->files) {
        names.insert(f.name);
        EXPECT_TRUE(f.name.starts_with(std::to_string(id) + "-"));
        EXPECT_EQ(std::filesystem::file_size(f.path), f.bytes);
      }
    }
  }
  ASSERT_GT(num_files, 6u);
  EXPECT_EQ(names.size(), num_files);
}

TEST(ShardWriter, EveryChunkLiesPlainAtThePlaceThatTheShardNames) {
  const TempDir dir;
  const WriterPart part = some_part();
  for (const FileIo io : {FileIo::kBuffered, FileIo::kDirect}) {
    auto r = request(dir.path(), part);
    r.options.io = io;
    const auto written = write_shard(r);
    ASSERT_OK(written);
    std::vector<std::string> contents;
    for (const ShardFile& f : written->files) {
      std::ifstream in(f.path, std::ios::binary);
      contents.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
      EXPECT_EQ(contents.back().size(), f.bytes);
      EXPECT_EQ(contents.back().substr(0, kChunkAlignment), chunk_file_header(7, part.writer));
    }
    std::size_t num_chunks = 0;
    for (const StoredShard& s : written->shards) {
      for (const Chunk& c : s.chunks) {
        ++num_chunks;
        ASSERT_EQ(c.file_offset % kChunkAlignment, 0u);
        ASSERT_LE(c.file_offset + c.bytes, contents.at(c.file).size());
        EXPECT_EQ(hash128(std::string_view(contents[c.file]).substr(c.file_offset, c.bytes)),
                  c.hash);
      }
    }
    EXPECT_GT(num_chunks, part.table.size());
  }
}

TEST(ShardWriter, HashesAreThoseOfTheBytesWhateverTheThreads) {
  const TempDir dir;
  const WriterPart part = some_part();
  auto one = request(dir.path(), part);
  auto four = one;
  four.options.num_threads = 4;
  const auto a = write_shard(one);
  const auto b = write_shard(four);
  ASSERT_OK(a);
  ASSERT_OK(b);
  ASSERT_EQ(a->shards.size(), b->shards.size());
  for (std::size_t i = 0; i < a->shards.size(); ++i) {
    EXPECT_EQ(a->shards[i].shard, b->shards[i].shard);
    EXPECT_EQ(a->shards[i].hash, b->shards[i].hash);
  }
  std::size_t found = 0;
  for (const TensorShard& t : part.table) {
    for (const StoredShard& s : a->shards) {
      if (s.shard.kind != t.kind || s.shard.name != t.name || s.shard.box != t.box) continue;
      ++found;
      EXPECT_EQ(s.hash, shard_hash(std::span(part.payload).subspan(t.offset, t.bytes),
                                   one.options.chunk_bytes));
    }
  }
  EXPECT_EQ(found, part.table.size());
}

TEST(ShardWriter, ASyncThatFailsOnceLeavesNothingAndTheRepeatSucceeds) {
  for (const std::string_view step : {"shard.open", "shard.put", "shard.sync", "shard.done"}) {
    SCOPED_TRACE(step);
    const TempDir dir;
    const WriterPart part = some_part();
    auto r = request(dir.path(), part);
    const auto good = write_shard(r);
    ASSERT_OK(good);
    for (const ShardFile& f : good->files) std::filesystem::remove(f.path);

    std::atomic<int> calls = 0;
    r.options.hook = [&](std::string_view at) -> Status {
      if (at == step && ++calls == 2) return make_error(ErrorCode::kIo, "injected");
      return {};
    };
    const auto failed = write_shard(r);
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().code, ErrorCode::kIo);
    EXPECT_TRUE(std::filesystem::is_empty(dir.path()));

    const auto repeated = write_shard(r);
    ASSERT_OK(repeated);
    EXPECT_EQ(repeated->shards, good->shards);
  }
}

TEST(ShardWriter, AMissingFolderAndAWrongTableAreErrors) {
  const TempDir dir;
  WriterPart part = some_part();
  const auto nowhere = write_shard(request(dir / "none", part));
  ASSERT_FALSE(nowhere);
  EXPECT_NE(nowhere.error().message.find("none"), std::string::npos) << nowhere.error().message;
  part.table.back().offset += 4096;
  EXPECT_EQ(write_shard(request(dir.path(), part)).error().code, ErrorCode::kInvalidArgument);
}

TEST(ShardWriter, CompressedAndDirectFilesReadTheSame) {
  const TempDir dir;
  auto store = Store::open(dir / "run", store_options());
  ASSERT_OK(store);
  const Model model = random_model(9);
  std::uint64_t id = 0;
  for (const Compression c : {Compression::kNone, Compression::kZstd}) {
    for (const FileIo io : {FileIo::kBuffered, FileIo::kDirect}) {
      SaveOptions options;
      options.write.compression = c;
      options.write.io = io;
      const auto manifest = save(**store, ++id, model, options);
      ASSERT_OK(manifest);
      EXPECT_OK(compare(**store, *manifest, model));
      EXPECT_TRUE((*store)->verify(id, VerifyDepth::kFull)->ok());
    }
  }
}

TEST(ShardWriter, CompressionShrinksWhatRepeatsAndLeavesTheRestAsItIs) {
  const TempDir dir;
  auto store = Store::open(dir / "run", store_options());
  ASSERT_OK(store);
  Model model = random_model(4);
  std::mt19937_64 rng(4);
  for (float& v : model[0].values) {
    const auto bits = static_cast<std::uint32_t>(rng());
    std::memcpy(&v, &bits, sizeof v);
  }
  for (float& v : model[1].values) v = 0;
  SaveOptions options;
  options.write.compression = Compression::kZstd;
  const auto manifest = save(**store, 1, model, options);
  ASSERT_OK(manifest);
  EXPECT_OK(compare(**store, *manifest, model));
  bool any_zeros = false;
  for (const StoredShard& s : manifest->shards) {
    for (const Chunk& c : s.chunks) {
      if (s.shard.kind == model[0].kind && s.shard.name == model[0].name) {
        EXPECT_EQ(c.stored_bytes, 0u);
      }
      if (s.shard.kind == model[1].kind && s.shard.name == model[1].name && c.bytes > 256) {
        any_zeros = true;
        EXPECT_GT(c.stored_bytes, 0u);
        EXPECT_LT(c.stored_bytes, c.bytes / 4);
      }
    }
  }
  EXPECT_TRUE(any_zeros);
}

}  // namespace
}  // namespace tenax::checkpoint
