#include "checkpoint/shard_writer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>

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

TEST(ShardWriter, FilesOfAllWritersHaveDisjointKeyRanges) {
  const TempDir dir;
  std::mt19937_64 rng(1);
  std::vector<ShardFile> files;
  for (const std::uint64_t id : {7u, 8u}) {
    for (const WriterPart& part : random_layout(random_model(2), 3, rng)) {
      auto r = request(dir.path(), part);
      r.checkpoint_id = id;
      const auto written = write_shard(r);
      ASSERT_OK(written);
      files.insert(files.end(), written->files.begin(), written->files.end());
    }
  }
  ASSERT_GT(files.size(), 6u);
  std::sort(files.begin(), files.end(),
            [](const ShardFile& a, const ShardFile& b) { return a.first_key < b.first_key; });
  for (std::size_t i = 1; i < files.size(); ++i) {
    EXPECT_LT(files[i - 1].last_key, files[i].first_key);
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
  EXPECT_EQ(a->shards, b->shards);
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
  for (const Compression c : {Compression::kNone, Compression::kLz4, Compression::kZstd}) {
    for (const FileIo io : {FileIo::kBuffered, FileIo::kDirect}) {
      SaveOptions options;
      options.write.compression = c;
      options.write.io = io;
      const auto manifest = save(**store, ++id, model, options);
      ASSERT_OK(manifest);
      EXPECT_OK(compare(**store, *manifest, model));
    }
  }
}

}  // namespace
}  // namespace tenax::checkpoint
