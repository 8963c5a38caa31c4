// Crashes of the owner at every named step, by SIGKILL, and at random moments.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <random>
#include <thread>

#include "checkpoint/store_reader.h"
#include "checkpoint/tensor_hash.h"
#include "tests/unit/checkpoint/crash_child.h"
#include "tests/unit/checkpoint/model_on_disk.h"

namespace tenax::checkpoint {
namespace {

/// Every shard file on disk is counted, not only those that the store knows.
std::uint64_t shard_bytes_on_disk(const std::string& run) {
  std::uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(run + "/chunks")) {
    if (entry.path().extension() == ".chunks") bytes += entry.file_size();
  }
  return bytes;
}

/// Everything in the store is whole: each manifest verifies and holds its model, and nothing else
/// takes space.
void expect_sound(const std::string& run, const std::vector<std::uint64_t>& expected_ids) {
  const auto store = Store::open(run, store_options());
  ASSERT_OK(store);
  EXPECT_TRUE((*store)->open_report().dropped.empty());
  EXPECT_TRUE(std::filesystem::is_empty((*store)->staging_dir()));
  std::vector<std::uint64_t> ids;
  std::uint64_t bytes = 0;
  const auto manifests = (*store)->manifests();
  ASSERT_OK(manifests);
  for (const ManifestEntry& entry : *manifests) {
    ids.push_back(entry.checkpoint_id);
    ASSERT_OK(entry.manifest);
    for (const StoredFile& f : entry.manifest->files) bytes += f.bytes;
    const auto report = (*store)->verify(entry.checkpoint_id, VerifyDepth::kFull);
    ASSERT_OK(report);
    EXPECT_TRUE(report->ok()) << report->problems.front();
    EXPECT_OK(compare(**store, *entry.manifest, random_model(entry.checkpoint_id)));
  }
  EXPECT_EQ(ids, expected_ids);
  EXPECT_EQ(shard_bytes_on_disk(run), bytes) << "orphaned files";
}

class CrashInSave : public ::testing::TestWithParam<std::string_view> {};

TEST_P(CrashInSave, LeavesTheOldOrTheNewCheckpointWholeAndNothingElse) {
  const std::string step(GetParam());
  const TempDir dir;
  const std::string run = dir / "run";
  ASSERT_EQ(run_crash_child({"save", run, "1", "none", "1"}).exit_code, 0);
  const bool once = step.rfind("shard.", 0) != 0;
  const ChildResult child = run_crash_child({"save", run, "2", step, once ? "1" : "3"});
  ASSERT_EQ(child.signal, SIGKILL);

  const bool committed = step == "commit.done";
  const std::vector<std::uint64_t> expected =
      committed ? std::vector<std::uint64_t>{1, 2} : std::vector<std::uint64_t>{1};
  {
    const auto reader = StoreReader::open_read_only(run);
    ASSERT_OK(reader);
    EXPECT_EQ((*reader)->manifests()->size(), expected.size());
    EXPECT_EQ((*reader)->read_journal(0)->size(), expected.size())
        << "manifest and record together";
  }
  expect_sound(run, expected);
  // The store goes on: the next save works and the swept one's id may be used, for it never
  // existed.
  ASSERT_EQ(run_crash_child({"save", run, "3", "none", "1"}).exit_code, 0);
  std::vector<std::uint64_t> with_next = expected;
  with_next.push_back(3);
  expect_sound(run, with_next);
}

INSTANTIATE_TEST_SUITE_P(EveryStep, CrashInSave,
                         ::testing::Values("shard.open", "shard.put", "shard.sync", "shard.done",
                                           "commit.ingest", "commit.ingested", "commit.manifest",
                                           "journal.write", "commit.done"));

class CrashInRemove : public ::testing::TestWithParam<std::string_view> {};

TEST_P(CrashInRemove, LeavesTheCheckpointWholeOrNoneOfItsBytes) {
  const std::string step(GetParam());
  const TempDir dir;
  const std::string run = dir / "run";
  for (const char* id : {"1", "2"}) {
    ASSERT_EQ(run_crash_child({"save", run, id, "none", "1"}).exit_code, 0);
  }
  const std::uint64_t of_both = shard_bytes_on_disk(run);
  ASSERT_EQ(run_crash_child({"remove", run, "1", step}).signal, SIGKILL);
  const bool still_there = step == "remove.withdraw" || step == "journal.write";
  expect_sound(run, still_there ? std::vector<std::uint64_t>{1, 2} : std::vector<std::uint64_t>{2});
  if (still_there) {
    EXPECT_EQ(shard_bytes_on_disk(run), of_both);
  } else {
    EXPECT_LT(shard_bytes_on_disk(run), of_both * 3 / 5) << "the bytes are really gone";
  }
}

INSTANTIATE_TEST_SUITE_P(EveryStep, CrashInRemove,
                         ::testing::Values("remove.withdraw", "journal.write", "remove.withdrawn",
                                           "remove.files", "remove.done"));

TEST(Crash, KillAtRandomMomentsNeverLosesAnAcknowledgedCheckpoint) {
  const TempDir dir;
  const std::string run = dir / "run";
  std::mt19937_64 rng(20);
  std::uint64_t newest = 0;
  for (int round = 0; round < 8; ++round) {
    const int pid = spawn_crash_child({"loop", run});
    ASSERT_GT(pid, 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(100 + rng() % 500));
    ::kill(pid, SIGKILL);
    ASSERT_EQ(wait_for(pid).signal, SIGKILL);

    const auto store = Store::open(run, store_options());
    ASSERT_OK(store);
    const auto manifests = (*store)->manifests();
    ASSERT_OK(manifests);
    std::uint64_t bytes = 0;
    for (const ManifestEntry& entry : *manifests) {
      ASSERT_OK(entry.manifest);
      EXPECT_OK(compare(**store, *entry.manifest, random_model(entry.checkpoint_id)));
      for (const StoredFile& f : entry.manifest->files) bytes += f.bytes;
    }
    EXPECT_EQ(shard_bytes_on_disk(run), bytes) << "orphaned files";
    EXPECT_GE(*(*store)->highest_checkpoint_id(), newest);
    newest = *(*store)->highest_checkpoint_id();
    if (newest > 0) {
      EXPECT_EQ(manifests->back().checkpoint_id, newest);
    }
    // The journal has no holes.
    const auto records = (*store)->read_journal(0);
    ASSERT_OK(records);
    for (std::size_t i = 0; i < records->size(); ++i) ASSERT_EQ((*records)[i].seq, i + 1);
  }
}

TEST(Crash, AnOwnerInAnotherProcessIsNamed) {
  const TempDir dir;
  const std::string run = dir / "run";
  const int pid = spawn_crash_child({"loop", run});
  ASSERT_GT(pid, 0);
  while (!StoreReader::open_read_only(run)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  while (!read_holder(run)) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const auto second = Store::open(run, store_options());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kInUse);
  EXPECT_NE(second.error().message.find("pid " + std::to_string(pid)), std::string::npos)
      << second.error().message;
  // While it saves and removes, a reader finds what it pinned.
  int compared = 0;
  for (int round = 0; round < 20; ++round) {
    const auto looked = StoreReader::open_read_only(run);
    ASSERT_OK(looked);
    const auto listed = (*looked)->manifests();
    ASSERT_OK(listed);
    if (listed->empty()) continue;
    const std::uint64_t id = listed->back().checkpoint_id;
    const auto pin = (*looked)->pin(id);
    ASSERT_OK(pin);
    const auto reader = StoreReader::open_read_only(run);
    ASSERT_OK(reader);
    const auto manifest = (*reader)->manifest(id);
    if (!manifest) continue;  // removed before the pin
    ASSERT_OK(compare(**reader, *manifest, random_model(id)));
    const auto records = (*reader)->read_journal(0);
    ASSERT_OK(records);
    for (std::size_t i = 0; i < records->size(); ++i) ASSERT_EQ((*records)[i].seq, i + 1);
    ++compared;
  }
  EXPECT_GT(compared, 0);
  ::kill(pid, SIGKILL);
  wait_for(pid);
}

}  // namespace
}  // namespace tenax::checkpoint
