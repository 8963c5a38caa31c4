// Checkpoints of manifest format 1 are read, verified and deleted like any other.
#include "tests/unit/checkpoint/format_1.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "checkpoint/rocks_db.h"
#include "checkpoint/store_reader.h"

namespace tenax::checkpoint {
namespace {

TEST(Format1, IsReadVerifiedContinuedAndItsSpaceFreed) {
  const TempDir dir;
  const std::string run = dir / "run";
  ASSERT_OK(save_in_format_1(run, 1, random_model(1)));
  {
    const auto reader = StoreReader::open_read_only(run);
    ASSERT_OK(reader);
    EXPECT_OK(compare(**reader, *(*reader)->manifest(1), random_model(1)));
    EXPECT_TRUE((*reader)->verify(1, VerifyDepth::kFull)->ok());
  }
  const auto store = Store::open(run, store_options());
  ASSERT_OK(store);
  EXPECT_TRUE((*store)->open_report().dropped.empty());
  EXPECT_TRUE((*store)->open_report().swept.empty());
  ASSERT_OK(save(**store, 2, random_model(2)));
  EXPECT_OK(compare(**store, *(*store)->manifest(1), random_model(1)));
  EXPECT_OK(compare(**store, *(*store)->manifest(2), random_model(2)));
  // Its manifest may be written again, in the new format, and still finds the old bytes.
  ASSERT_OK((*store)->record_weights_hash(1, {1, 2}));
  EXPECT_OK(compare(**store, *(*store)->manifest(1), random_model(1)));
  EXPECT_TRUE((*store)->verify(1, VerifyDepth::kFull)->ok());

  ASSERT_OK((*store)->remove(1, {}));
  for (const auto& entry : std::filesystem::directory_iterator(shards_path(run))) {
    EXPECT_NE(entry.path().extension(), ".sst") << "space of format 1 is freed too";
  }
  EXPECT_OK(compare(**store, *(*store)->manifest(2), random_model(2)));
}

}  // namespace
}  // namespace tenax::checkpoint
