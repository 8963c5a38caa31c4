#include "checkpoint/reader.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <set>
#include <tuple>

#include "checkpoint/box.h"
#include "checkpoint/tensor_hash.h"
#include "tests/unit/checkpoint/model_on_disk.h"

namespace tenax::checkpoint {
namespace {

/// Passes chunks on, counts them, and can spoil those of one writer.
class WatchedSource final : public ChunkSource {
 public:
  explicit WatchedSource(const ChunkSource& source) : source_(source) {}
  Result<std::span<const std::byte>> read_chunk(const Manifest& manifest, const StoredShard& shard,
                                                std::uint32_t index,
                                                ChunkBuffer& buffer) const override {
    read_.insert({shard.writer, shard.shard.name, index});
    TENAX_TRY(const auto chunk, source_.read_chunk(manifest, shard, index, buffer));
    if (shard.writer != spoiled_writer) return chunk;
    buffer.plain.assign(chunk.begin(), chunk.end());
    for (std::byte& b : buffer.plain) b ^= std::byte{1};
    return std::span<const std::byte>(buffer.plain);
  }
  std::string locate(const Manifest& manifest, const StoredShard& shard,
                     std::uint32_t index) const override {
    return source_.locate(manifest, shard, index);
  }

  std::string spoiled_writer;
  using Read = std::tuple<std::string, std::string, std::uint32_t>;
  mutable std::set<Read> read_;

 private:
  const ChunkSource& source_;
};

class ReaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto store = Store::open(dir_ / "run", store_options());
    ASSERT_OK(store);
    store_ = *std::move(store);
  }
  TempDir dir_;
  std::unique_ptr<Store> store_;
};

TEST_F(ReaderTest, AnyBoxOfAnyLayoutEqualsThePlainArray) {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Model model = random_model(seed);
    SaveOptions options;
    options.seed = seed;
    options.num_writers = 1 + static_cast<int>(seed % 4);
    const auto manifest = save(*store_, seed, model, options);
    ASSERT_OK(manifest);
    const CheckpointReader reader(*store_, *manifest);
    std::mt19937_64 rng(seed + 1000);
    for (const LogicalTensor& t : model) {
      for (int round = 0; round < 10; ++round) {
        const Box box = random_box(t.shape, rng);
        const std::vector<float> expected = pick(t, box);
        std::vector<float> got(expected.size());
        ASSERT_OK(reader.read_box(t.kind, t.name, box, got));
        ASSERT_EQ(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)), 0)
            << t.kind << " " << t.name << " " << to_string(box);
      }
    }
  }
}

TEST_F(ReaderTest, ManyBoxesOnSeveralThreadsEqualThePlainArrays) {
  const Model model = random_model(3);
  const auto manifest = save(*store_, 1, model);
  ASSERT_OK(manifest);
  std::vector<std::vector<float>> out;
  std::vector<BoxRequest> requests;
  for (const LogicalTensor& t : model) out.emplace_back(t.values.size());
  for (std::size_t i = 0; i < model.size(); ++i) {
    requests.push_back({model[i].kind, model[i].name, whole(model[i].shape), out[i]});
  }
  ASSERT_OK(CheckpointReader(*store_, *manifest).read_boxes(requests, 4));
  for (std::size_t i = 0; i < model.size(); ++i) {
    EXPECT_EQ(std::memcmp(out[i].data(), model[i].values.data(), out[i].size() * sizeof(float)), 0);
  }
}

TEST_F(ReaderTest, ReadsOnlyTheChunksThatHoldTheBox) {
  Model model = {{kParameter, "w", {64, 1024}, std::vector<float>(64 * 1024, 1.0f)}};
  SaveOptions options;
  options.num_writers = 1;
  const auto prepared = [&]() -> Result<Manifest> {
    std::vector<TensorShard> table = {
        {"w", kParameter, DType::kFloat32, {64, 1024}, whole(model[0].shape), 0, 64 * 4096}};
    TENAX_TRY(const ShardFiles files,
              write_shard({store_->staging_dir(), 1, "w0", table,
                           std::as_bytes(std::span(model[0].values)), small_files()}));
    Manifest m;
    m.checkpoint_id = 1;
    TENAX_RETURN_IF_ERROR(add_to_manifest(files, m));
    TENAX_RETURN_IF_ERROR(store_->commit(m, files.files, {}));
    return m;
  }();
  ASSERT_OK(prepared);
  const WatchedSource source(*store_);
  std::vector<float> out(3 * 10);
  ASSERT_OK(read_tensor_box(source, *prepared, kParameter, "w", {{5, 7}, {3, 10}}, out));
  // A row of 1024 floats is exactly one chunk here.
  EXPECT_EQ(source.read_,
            (std::set<WatchedSource::Read>{{"w0", "w", 5}, {"w0", "w", 6}, {"w0", "w", 7}}));
}

TEST_F(ReaderTest, ABadChunkIsNamedAndNeverReturned) {
  const Model model = random_model(3);
  const auto manifest = save(*store_, 1, model);
  ASSERT_OK(manifest);
  WatchedSource source(*store_);
  source.spoiled_writer = manifest->shards.front().writer;
  const auto& shard = manifest->shards.front().shard;
  std::vector<float> out(static_cast<std::size_t>(volume(shard.box)));
  const auto read = read_tensor_box(source, *manifest, shard.kind, shard.name, shard.box, out);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ErrorCode::kDataLoss);
  for (const std::string& part :
       {shard.name, shard.kind, std::string("chunk 0"), std::string(".chunks")}) {
    EXPECT_NE(read.error().message.find(part), std::string::npos) << read.error().message;
  }
}

TEST_F(ReaderTest, ABadShardIsReplacedByAReplicaOfAnotherWriter) {
  const Model model = random_model(3);
  Manifest manifest;
  manifest.checkpoint_id = 1;
  std::vector<ShardFile> files;
  for (std::uint64_t copy = 0; copy < 2; ++copy) {
    std::mt19937_64 rng(copy);  // replicas cut at different places
    WriterPart part = random_layout(model, 1, rng)[0];
    part.writer = "replica" + std::to_string(copy);
    const auto written = write_shard(
        {store_->staging_dir(), 1, part.writer, part.table, part.payload, small_files()});
    ASSERT_OK(written);
    ASSERT_OK(add_to_manifest(*written, manifest));
    files.insert(files.end(), written->files.begin(), written->files.end());
  }
  ASSERT_OK(store_->commit(manifest, files, {}));
  WatchedSource source(*store_);
  for (const char* spoiled : {"replica0", "replica1"}) {
    source.spoiled_writer = spoiled;
    EXPECT_OK(compare(source, manifest, model));
  }
}

TEST_F(ReaderTest, HashDoesNotDependOnLayoutWritersOrChunkSize) {
  const Model model = random_model(11);
  std::set<Hash128> hashes;
  for (std::uint64_t id = 1; id <= 6; ++id) {
    SaveOptions options;
    options.seed = id;
    options.num_writers = static_cast<int>(id);
    options.write.chunk_bytes = 4096 << (id % 3);
    const auto manifest = save(*store_, id, model, options);
    ASSERT_OK(manifest);
    const auto hash = hash_checkpoint(CheckpointReader(*store_, *manifest));
    ASSERT_OK(hash);
    hashes.insert(*hash);
  }
  EXPECT_EQ(hashes.size(), 1u);

  std::vector<TensorHash> plain;
  for (const LogicalTensor& t : model) {
    plain.push_back(
        {t.kind, t.name, DType::kFloat32, t.shape, hash128(std::as_bytes(std::span(t.values)))});
  }
  EXPECT_EQ(*hashes.begin(), combine(plain)) << "streamed in slabs versus hashed at once";
}

TEST_F(ReaderTest, HashChangesWithAnyBitShapeOrName) {
  const Model model = random_model(11);
  const auto hash_of = [&](std::uint64_t id, const Model& m) {
    const auto manifest = save(*store_, id, m);
    EXPECT_OK(manifest);
    return *hash_checkpoint(CheckpointReader(*store_, *manifest));
  };
  std::set<Hash128> hashes = {hash_of(1, model)};
  Model changed = model;
  changed[7].values[5] = -changed[7].values[5];
  EXPECT_TRUE(hashes.insert(hash_of(2, changed)).second);
  changed = model;
  std::swap(changed[0].shape[0], changed[0].shape[1]);
  EXPECT_TRUE(hashes.insert(hash_of(3, changed)).second);
  changed = model;
  changed[0].name += "x";
  EXPECT_TRUE(hashes.insert(hash_of(4, changed)).second);
}

TEST_F(ReaderTest, SlabsOfALargeTensorHashAsTheWhole) {
  // More than one slab of 16 Mi elements, with rows that do not divide it.
  LogicalTensor t{kParameter, "big", {3, 2741, 2049}, {}};
  t.values.resize(3 * 2741 * 2049);
  for (std::size_t i = 0; i < t.values.size(); ++i) t.values[i] = static_cast<float>(i);
  SaveOptions options;
  options.write.chunk_bytes = kChunkBytes;
  options.write.file_bytes = 16 << 20;
  const auto manifest = save(*store_, 1, {t}, options);
  ASSERT_OK(manifest);
  const auto hashes = hash_tensors(CheckpointReader(*store_, *manifest));
  ASSERT_OK(hashes);
  EXPECT_EQ(hashes->at(0).hash, hash128(std::as_bytes(std::span(t.values))));
}

TEST_F(ReaderTest, WrongRequestsAreRefused) {
  const auto manifest = save(*store_, 1, random_model(1));
  ASSERT_OK(manifest);
  const CheckpointReader reader(*store_, *manifest);
  std::vector<float> out(48);
  EXPECT_EQ(reader.read_box(kParameter, "nothing", whole({}), out).error().code,
            ErrorCode::kNotFound);
  const std::vector<std::int64_t> shape = {48};
  EXPECT_EQ(reader.read_box(kParameter, "h.0.ln.bias", {{1}, {48}}, out).error().code,
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(reader.read_box(kParameter, "h.0.ln.bias", {{0}, {47}}, out).error().code,
            ErrorCode::kInvalidArgument);
  EXPECT_OK(reader.read_box(kParameter, "h.0.ln.bias", whole(shape), out));
}

}  // namespace
}  // namespace tenax::checkpoint
