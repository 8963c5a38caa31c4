#include "checkpoint/manifest.h"

#include <gtest/gtest.h>

#include "checkpoint/shard_key.h"
#include "tests/unit/checkpoint/model_on_disk.h"

namespace tenax::checkpoint {
namespace {

Manifest full_manifest() {
  Manifest m;
  m.checkpoint_id = 0x0102030405060708;
  m.run_id = "run-1";
  m.branch = 3;
  m.parents = {{1, 0, 100}, {3, 1, 250}};
  m.step = 300;
  m.generation = 12;
  m.sample_position = 76800;
  m.skip_windows = {{1000, 1064}, {5000, 5001}};
  m.schedule_changes = {{"clip", 0.5, 251, 400}};
  m.config_digest = {1, 2};
  m.data_digest = {3, 4};
  m.layout = "dp=2 tp=2 pp=1";
  m.arithmetic = "bf16 products, sums cut at k256";
  m.created = Time(Duration(1'764'000'000'123'456'789));
  m.run_state = R"({"detector":{"median":2.5}})";
  m.chunk_bytes = 4096;
  TensorShard s{"wte", kAdamM, DType::kFloat32, {8, 4}, {{4, 0}, {4, 4}}, 0, 64};
  m.shards = {{s, "host0.w1", 2, {5, 6}, {{64, {7, 8}, 8192, 3, 33}}}};
  m.files = {{"7-w0-0.chunks", 1234, std::string("\0\1\2\3", 4), std::string("a\0b", 3), "c"}};
  m.weights_hash = {9, 10};
  return m;
}

TEST(Manifest, EveryFieldSurvivesEncoding) {
  const Manifest m = full_manifest();
  const auto decoded = decode_manifest(encode_manifest(m));
  ASSERT_OK(decoded);
  EXPECT_EQ(*decoded, m);
}

TEST(Manifest, NewerFormatIsRefusedNamingBothVersions) {
  std::string bytes = encode_manifest(full_manifest());
  bytes[4] = static_cast<char>(kManifestFormat + 1);
  const auto decoded = decode_manifest(bytes);
  ASSERT_FALSE(decoded);
  EXPECT_EQ(decoded.error().code, ErrorCode::kUnsupported);
  EXPECT_NE(decoded.error().message.find("format version 3, this program reads up to 2"),
            std::string::npos)
      << decoded.error().message;
}

TEST(Manifest, AnyFlippedBitIsNoticed) {
  const std::string good = encode_manifest(full_manifest());
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    ASSERT_FALSE(decode_manifest(bad)) << "bit " << bit;
  }
}

TEST(Manifest, AnyTruncationIsNoticed) {
  const std::string good = encode_manifest(full_manifest());
  for (std::size_t n = 0; n < good.size(); ++n) {
    ASSERT_FALSE(decode_manifest(std::string_view(good).substr(0, n))) << n << " bytes";
  }
}

TEST(TensorShard, TableSurvivesEncodingAndGarbageIsRefused) {
  std::vector<TensorShard> table = {
      {"a", kParameter, DType::kFloat32, {8, 4}, {{4, 0}, {4, 4}}, 0, 0},
      {"b", kAdamV, DType::kFloat32, {}, {}, 0, 0},
  };
  EXPECT_EQ(assign_offsets(table, 64), 68u);
  EXPECT_EQ(table[1].offset, 64u);
  const auto decoded = decode_table(encode_table(table));
  ASSERT_OK(decoded);
  EXPECT_EQ(*decoded, table);
  EXPECT_EQ(decode_table("").error().code, ErrorCode::kDataLoss);
  EXPECT_FALSE(decode_table(std::string(64, '\xff')));
}

TEST(TensorShard, ValidateNamesTheTensorAndWhatIsWrong) {
  const TensorShard good{"wte", kParameter, DType::kFloat32, {8, 4}, {{4, 0}, {4, 4}}, 16, 64};
  EXPECT_OK(validate(good, 80));
  EXPECT_NE(validate(good, 79).error().message.find("parameter 'wte'"), std::string::npos);
  TensorShard bad = good;
  bad.box.offset[0] = 5;
  EXPECT_FALSE(validate(bad, 80));
  bad = good;
  bad.bytes = 60;
  EXPECT_FALSE(validate(bad, 80));
  bad = good;
  bad.name = std::string("w\0x", 3);
  EXPECT_FALSE(validate(bad, 80));
  bad = good;
  bad.offset = UINT64_MAX - 10;
  EXPECT_FALSE(validate(bad, 80));
}

TEST(ShardKey, OrderOfBytesIsOrderOfFields) {
  const std::vector<ShardKey> ascending = {
      {1, "w0", "adam_m", "a", 0, 0},    {1, "w0", "adam_m", "a", 0, 255},
      {1, "w0", "adam_m", "a", 0, 256},  {1, "w0", "adam_m", "a", 1, 0},
      {1, "w0", "adam_m", "ab", 0, 0},   {1, "w0", "parameter", "a", 0, 0},
      {1, "w01", "adam_m", "a", 0, 0},   {1, "w1", "adam_m", "a", 0, 0},
      {255, "a", "adam_m", "a", 0, 0},   {256, "a", "adam_m", "a", 0, 0},
      {UINT64_MAX, "a", "k", "a", 0, 0},
  };
  for (std::size_t i = 0; i < ascending.size(); ++i) {
    EXPECT_EQ(*decode_key(encode_key(ascending[i])), ascending[i]);
    if (i > 0) {
      EXPECT_LT(encode_key(ascending[i - 1]), encode_key(ascending[i])) << i;
    }
  }
  EXPECT_FALSE(decode_key("short"));
  EXPECT_FALSE(decode_key(encode_key(ascending[0]) + "x"));
}

}  // namespace
}  // namespace tenax::checkpoint
