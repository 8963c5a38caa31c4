#include "checkpoint/store.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "checkpoint/pin.h"
#include "checkpoint/store_reader.h"
#include "checkpoint/tensor_hash.h"
#include "tests/unit/checkpoint/model_on_disk.h"

namespace tenax::checkpoint {
namespace {

std::unique_ptr<Store> open(const std::string& path) {
  auto store = Store::open(path, store_options());
  EXPECT_TRUE(store) << store.error().message;
  return store ? *std::move(store) : nullptr;
}

std::uint64_t bytes_on_disk(const std::string& path) {
  std::uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    if (entry.path().extension() == ".chunks") bytes += entry.file_size();
  }
  return bytes;
}

TEST(Store, CommittedCheckpointReadsBackBitForBitAfterReopening) {
  const TempDir dir;
  const Model model = random_model(7);
  auto store = open(dir / "run");
  const auto saved = save(*store, 1, model, {.step = 10, .journal_seq = 1});
  ASSERT_OK(saved);
  EXPECT_OK(compare(*store, *saved, model));
  store.reset();

  store = open(dir / "run");
  const auto manifests = store->manifests();
  ASSERT_OK(manifests);
  ASSERT_EQ(manifests->size(), 1u);
  ASSERT_OK((*manifests)[0].manifest);
  EXPECT_EQ(*(*manifests)[0].manifest, *saved);
  EXPECT_OK(compare(*store, *saved, model));
  EXPECT_EQ(store->read_journal(0)->at(0), (JournalRecord{1, "committed 1"}));
  EXPECT_EQ(*store->highest_checkpoint_id(), 1u);
  EXPECT_TRUE(std::filesystem::is_empty(store->staging_dir()));
}

TEST(Store, JournalKeepsOrderAndStateIsTheLastOne) {
  const TempDir dir;
  auto store = open(dir / "run");
  EXPECT_FALSE(store->state()->has_value());
  EXPECT_FALSE(store->last_journal_seq()->has_value());
  const std::vector<JournalRecord> first = {{1, "a"}, {2, std::string("b\0c", 3)}};
  const std::vector<JournalRecord> second = {{300, ""}};
  ASSERT_OK(store->append_journal(first, "state 1"));
  ASSERT_OK(store->append_journal(second, "state 2"));
  store.reset();
  store = open(dir / "run");
  EXPECT_EQ(*store->read_journal(0),
            (std::vector<JournalRecord>{{1, "a"}, {2, std::string("b\0c", 3)}, {300, ""}}));
  EXPECT_EQ(*store->read_journal(2, 1), (std::vector<JournalRecord>{{2, std::string("b\0c", 3)}}));
  EXPECT_EQ(*store->last_journal_seq(), 300u);
  EXPECT_EQ(*store->state(), "state 2");
}

TEST(Store, RefusesAJournalRecordThatDoesNotFollowTheLast) {
  const TempDir dir;
  auto store = open(dir / "run");
  const std::vector<JournalRecord> five = {{5, "x"}};
  ASSERT_OK(store->append_journal(five));
  EXPECT_EQ(store->append_journal(five).error().code, ErrorCode::kInvalidArgument);
  const std::vector<JournalRecord> twice = {{6, "x"}, {6, "y"}};
  EXPECT_EQ(store->append_journal(twice).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(store->read_journal(0)->size(), 1u);
}

TEST(Store, SecondOpenerIsRefusedWithTheHoldersName) {
  const TempDir dir;
  const auto store = open(dir / "run");
  const auto second = Store::open(dir / "run", store_options());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kInUse);
  EXPECT_NE(
      second.error().message.find("pid " + std::to_string(::getpid()) + " on testhost, term 1"),
      std::string::npos)
      << second.error().message;
}

TEST(Store, ReaderBesideTheOwnerSeesEveryCommittedCheckpointAndRecord) {
  const TempDir dir;
  const Model model = random_model(3);
  auto store = open(dir / "run");
  const auto saved = save(*store, 1, model, {.journal_seq = 1});
  ASSERT_OK(saved);
  const auto reader = StoreReader::open_read_only(dir / "run");
  ASSERT_OK(reader);
  EXPECT_OK(compare(**reader, *(*reader)->manifest(1), model));
  EXPECT_EQ((*reader)->read_journal(0)->size(), 1u);

  ASSERT_OK(save(*store, 2, model, {.journal_seq = 2}));
  EXPECT_EQ((*reader)->manifest(2).error().code, ErrorCode::kNotFound);
  const auto later = StoreReader::open_read_only(dir / "run");
  ASSERT_OK(later);
  EXPECT_OK((*later)->manifest(2));
}

TEST(Store, ReaderOfNothingSaysThatThereIsNoStore) {
  const TempDir dir;
  EXPECT_EQ(StoreReader::open_read_only(dir / "none").error().code, ErrorCode::kNotFound);
}

TEST(Store, RemovalFreesTheBytesOnDiskAndOnlyThose) {
  const TempDir dir;
  const Model model = random_model(5);
  auto store = open(dir / "run");
  ASSERT_OK(save(*store, 1, model));
  const std::uint64_t of_one = bytes_on_disk(dir.path());
  const auto second = save(*store, 2, model, {.seed = 9});
  ASSERT_OK(second);
  const std::uint64_t of_two = bytes_on_disk(dir.path());
  ASSERT_GT(of_two, of_one);
  const std::vector<JournalRecord> why = {{1, "retention"}};
  ASSERT_OK(store->remove(1, why));
  EXPECT_EQ(bytes_on_disk(dir.path()), of_two - of_one);
  EXPECT_EQ(store->space()->checkpoint_bytes, of_two - of_one);
  EXPECT_EQ(store->manifest(1).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(store->remove(1, {}).error().code, ErrorCode::kNotFound);
  EXPECT_OK(compare(*store, *second, model));
  EXPECT_EQ(*store->highest_checkpoint_id(), 2u);
}

TEST(Store, PinnedCheckpointIsNotRemoved) {
  const TempDir dir;
  auto store = open(dir / "run");
  ASSERT_OK(save(*store, 1, random_model(5)));
  {
    const auto reader = StoreReader::open_read_only(dir / "run");
    ASSERT_OK(reader);
    const auto pin = (*reader)->pin(1);
    ASSERT_OK(pin);
    EXPECT_EQ(store->remove(1, {}).error().code, ErrorCode::kInUse);
    EXPECT_OK(store->manifest(1));
  }
  EXPECT_OK(store->remove(1, {}));
}

TEST(Store, RefusesAnIdThatWasUsedBefore) {
  const TempDir dir;
  const Model model = random_model(5);
  auto store = open(dir / "run");
  ASSERT_OK(save(*store, 4, model));
  EXPECT_EQ(save(*store, 4, model).error().code, ErrorCode::kInvalidArgument);
  ASSERT_OK(store->remove(4, {}));
  EXPECT_EQ(save(*store, 4, model).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(save(*store, 3, model).error().code, ErrorCode::kInvalidArgument);
  EXPECT_OK(save(*store, 5, model));
}

TEST(Store, RefusesACheckpointWithAShardMissing) {
  const TempDir dir;
  auto store = open(dir / "run");
  auto prepared = prepare(store->staging_dir(), 1, random_model(5));
  ASSERT_OK(prepared);
  for (std::size_t i = 0; i < prepared->manifest.shards.size(); ++i) {
    Manifest missing = prepared->manifest;
    const std::string name = missing.shards[i].shard.name;
    missing.shards.erase(missing.shards.begin() + static_cast<std::ptrdiff_t>(i));
    // A tensor that is not there at all is no gap: the caller's table decides which tensors there
    // are.
    const bool last =
        std::none_of(missing.shards.begin(), missing.shards.end(), [&](const auto& s) {
          return s.shard.name == name && s.shard.kind == prepared->manifest.shards[i].shard.kind;
        });
    if (last) continue;
    const auto refused = store->commit(missing, prepared->files, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(refused.error().message.find(name), std::string::npos) << refused.error().message;
  }
  Manifest fewer_files = prepared->manifest;
  fewer_files.files.pop_back();
  EXPECT_FALSE(store->commit(fewer_files, prepared->files, {}));
  EXPECT_OK(store->commit(prepared->manifest, prepared->files, {}));
}

TEST(Store, WeightsHashIsKeptWithTheManifest) {
  const TempDir dir;
  auto store = open(dir / "run");
  const auto saved = save(*store, 1, random_model(5));
  ASSERT_OK(saved);
  const auto hash = hash_checkpoint(CheckpointReader(*store, *saved));
  ASSERT_OK(hash);
  ASSERT_OK(store->record_weights_hash(1, *hash));
  store.reset();
  store = open(dir / "run");
  EXPECT_EQ(store->manifest(1)->weights_hash, *hash);
  EXPECT_TRUE(store->verify(1, VerifyDepth::kFull)->ok());
}

}  // namespace
}  // namespace tenax::checkpoint
