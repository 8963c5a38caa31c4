// Damaged files, full and read-only disks.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <random>

#include "checkpoint/box.h"
#include "checkpoint/rocks_db.h"
#include "checkpoint/rocks_log.h"
#include "checkpoint/shard_key.h"
#include "checkpoint/store_reader.h"
#include "tests/unit/checkpoint/model_on_disk.h"

namespace tenax::checkpoint {
namespace {

namespace fs = std::filesystem;

/// The files with tensors' bytes.
std::vector<std::string> shard_paths(const std::string& run) {
  std::vector<std::string> paths;
  for (const auto& entry : fs::directory_iterator(run + "/chunks")) {
    if (entry.path().extension() == ".chunks") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

void flip_bit(const std::string& path, std::uint64_t bit) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(bit / 8));
  const char byte = static_cast<char>(file.get());
  file.seekp(static_cast<std::streamoff>(bit / 8));
  file.put(static_cast<char>(byte ^ (1 << (bit % 8))));
}

class DamageTest : public ::testing::Test {
 protected:
  /// Two checkpoints: 1 stays sound, files of 2 are damaged.
  void SetUp() override {
    auto store = Store::open(run_, store_options());
    ASSERT_OK(store);
    ASSERT_OK(save(**store, 1, one_, {.journal_seq = 1}));
    const auto before = shard_paths(run_);
    ASSERT_OK(save(**store, 2, two_, {.seed = 5, .journal_seq = 2}));
    for (const std::string& path : shard_paths(run_)) {
      if (std::find(before.begin(), before.end(), path) == before.end()) files_.push_back(path);
    }
    ASSERT_GT(files_.size(), 3u);
  }

  /// Every tensor of 2 either is an error or has the right bits; 1 and the journal are untouched.
  /// True if anything was an error.
  bool damage_is_noticed(const StoreView& store) {
    EXPECT_OK(compare(store, *store.manifest(1), one_));
    EXPECT_EQ(store.read_journal(0)->size(), 2u);
    const auto manifest = store.manifest(2);
    EXPECT_OK(manifest);
    if (!manifest) return true;
    bool noticed = false;
    for (const LogicalTensor& t : two_) {
      std::vector<float> values(t.values.size());
      const auto read = read_tensor_box(store, *manifest, t.kind, t.name, whole(t.shape), values);
      if (!read) {
        noticed = true;
        EXPECT_EQ(read.error().code, ErrorCode::kDataLoss) << read.error().message;
        EXPECT_NE(read.error().message.find(t.name), std::string::npos) << read.error().message;
      } else {
        EXPECT_EQ(std::memcmp(values.data(), t.values.data(), values.size() * 4), 0)
            << "wrong bytes were returned (C2)";
      }
    }
    const auto report = store.verify(2, VerifyDepth::kFull);
    EXPECT_OK(report);
    EXPECT_TRUE(store.verify(1, VerifyDepth::kFull)->ok());
    if (noticed) {
      EXPECT_FALSE(report->ok());
    }
    return noticed;
  }

  TempDir dir_;
  std::string run_ = dir_ / "run";
  Model one_ = random_model(1);
  Model two_ = random_model(2);
  std::vector<std::string> files_;
};

TEST_F(DamageTest, AFlippedBitInAnyFileIsNeverLoaded) {
  std::mt19937_64 rng(3);
  int noticed = 0;
  for (const std::string& path : files_) {
    for (const bool anywhere : {true, false}) {
      // The first bytes of a block after the header's are never padding.
      const std::uint64_t block = 1 + rng() % (fs::file_size(path) / 4096 - 1);
      const std::uint64_t bit =
          anywhere ? rng() % (8 * fs::file_size(path)) : 8 * 4096 * block + rng() % 32;
      SCOPED_TRACE(path + " bit " + std::to_string(bit));
      flip_bit(path, bit);
      const auto reader = StoreReader::open_read_only(run_);
      ASSERT_OK(reader);
      const bool seen = damage_is_noticed(**reader);
      EXPECT_TRUE(seen || anywhere);
      noticed += seen;
      flip_bit(path, bit);
    }
  }
  EXPECT_GE(noticed, static_cast<int>(files_.size()));
  const auto reader = StoreReader::open_read_only(run_);
  ASSERT_OK(reader);
  EXPECT_FALSE(damage_is_noticed(**reader)) << "every bit was flipped back";
}

TEST_F(DamageTest, OwnerOpensWithATruncatedMissingOrLongerFileAndOnlyThatCheckpointSuffers) {
  const auto cut = [](const std::string& p) { fs::resize_file(p, fs::file_size(p) / 2); };
  const auto remove = [](const std::string& p) { fs::remove(p); };
  const auto lengthen = [](const std::string& p) { fs::resize_file(p, fs::file_size(p) + 1); };
  const auto empty = [](const std::string& p) { fs::resize_file(p, 0); };
  const std::vector<std::function<void(const std::string&)>> damages = {cut, remove, lengthen,
                                                                        empty};
  for (std::size_t i = 0; i < damages.size(); ++i) {
    SCOPED_TRACE(i);
    damages[i](files_[i]);
    {
      const auto reader = StoreReader::open_read_only(run_);
      ASSERT_OK(reader);
      damage_is_noticed(**reader);
      EXPECT_FALSE((*reader)->verify(2, VerifyDepth::kFast)->ok());
    }
    const auto store = Store::open(run_, store_options());
    ASSERT_OK(store);
    EXPECT_EQ((*store)->open_report().dropped.size(), i + 1);
    damage_is_noticed(**store);
    EXPECT_FALSE((*store)->verify(2, VerifyDepth::kFast)->ok());
  }
  // What is damaged can be removed, and the store goes on.
  const auto store = Store::open(run_, store_options());
  ASSERT_OK(store);
  ASSERT_OK((*store)->remove(2, {}));
  const auto saved = save(**store, 3, two_);
  ASSERT_OK(saved);
  EXPECT_OK(compare(**store, *saved, two_));
}

TEST_F(DamageTest, ADamagedJournalIsRefusedUnlessSalvaged) {
  std::string log;
  for (const auto& entry : fs::directory_iterator(run_ + "/records")) {
    if (entry.path().extension() == ".log" && entry.file_size() > 0) log = entry.path();
  }
  ASSERT_FALSE(log.empty());
  flip_bit(log, 8 * 40);  // in the first record, with others after it
  const auto refused = Store::open(run_, store_options());
  ASSERT_FALSE(refused) << "a journal that silently ends early";
  EXPECT_EQ(refused.error().code, ErrorCode::kDataLoss) << refused.error().message;
  StoreOptions salvage = store_options();
  salvage.salvage_journal = true;
  const auto store = Store::open(run_, salvage);
  ASSERT_OK(store);
  EXPECT_LT((*store)->read_journal(0)->size(), 2u);
}

TEST_F(DamageTest, ANewerManifestIsListedAsSuchAndHidesNoOther) {
  {
    auto records = open_records(records_path(run_), OpenAs::kPrimary, nullptr);
    ASSERT_OK(records);
    std::string newer = encode_manifest(Manifest{});
    newer[4] = 99;
    ASSERT_TRUE(
        records->db
            ->Put(rocksdb::WriteOptions(), records->families[kManifests], encode_id(3), newer)
            .ok());
  }
  const auto store = Store::open(run_, store_options());
  ASSERT_OK(store);
  const auto manifests = (*store)->manifests();
  ASSERT_OK(manifests);
  ASSERT_EQ(manifests->size(), 3u);
  EXPECT_OK((*manifests)[1].manifest);
  ASSERT_FALSE((*manifests)[2].manifest);
  EXPECT_EQ((*manifests)[2].manifest.error().code, ErrorCode::kUnsupported);
  EXPECT_OK(compare(**store, *(*manifests)[1].manifest, two_));
}

/// A small file system of its own; needs root.
class SmallDisk {
 public:
  SmallDisk(std::string path, const char* size) : path_(std::move(path)) {
    fs::create_directory(path_);
    mounted_ = ::mount("tmpfs", path_.c_str(), "tmpfs", 0, size) == 0;
  }
  ~SmallDisk() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  bool make_read_only() {
    return ::mount("tmpfs", path_.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, nullptr) == 0;
  }

 private:
  std::string path_;
  bool mounted_ = false;
};

TEST(FullDisk, SavesFailWithNoSpaceTheOldStaysAndTrainingGoesOnWhenThereIsSpace) {
  const TempDir dir;
  const std::string disk_path = dir / "disk";
  const SmallDisk disk(disk_path, "size=24m");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a tmpfs needs root";
  const Model model = random_model(1);
  const auto store = Store::open(disk_path + "/run", store_options());
  ASSERT_OK(store);
  const auto first = save(**store, 1, model, {.journal_seq = 1});
  ASSERT_OK(first);

  // Fill the disk but for less than a checkpoint needs.
  {
    std::ofstream filler(disk_path + "/filler", std::ios::binary);
    const auto free = (*store)->space()->free_bytes;
    ASSERT_GT(free, 200'000u);
    filler << std::string(free - 100'000, 'x');
  }
  const auto refused = save(**store, 2, model, {.journal_seq = 2});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNoSpace) << refused.error().message;
  EXPECT_TRUE(fs::is_empty((*store)->staging_dir()));
  EXPECT_OK(compare(**store, *first, model));
  EXPECT_EQ((*store)->manifests()->size(), 1u);

  // Not even the journal fits any more.
  {
    std::ofstream filler(disk_path + "/filler2", std::ios::binary);
    while (filler << std::string(4096, 'x') && filler.flush()) continue;
  }
  std::uint64_t seq = 1;
  Status journal;
  for (int i = 0; i < 5000 && journal; ++i) {  // the log's reserved space goes first
    const std::vector<JournalRecord> record = {{++seq, std::string(4096, 'r')}};
    journal = (*store)->append_journal(record);
  }
  ASSERT_FALSE(journal);
  EXPECT_EQ(journal.error().code, ErrorCode::kNoSpace) << journal.error().message;

  fs::remove(disk_path + "/filler");
  fs::remove(disk_path + "/filler2");
  const std::vector<JournalRecord> again = {{seq, std::string(4096, 'r')}};
  Status appended = (*store)->append_journal(again);
  // RocksDB may be in the middle of its own recovery; the caller's retry is part of the contract.
  for (int i = 0; i < 200 && !appended; ++i) {
    ::usleep(50'000);
    appended = (*store)->append_journal(again);
  }
  ASSERT_OK(appended);
  const auto second = save(**store, 3, model, {.journal_seq = seq + 1});
  ASSERT_OK(second);
  EXPECT_OK(compare(**store, *second, model));
  const auto records = (*store)->read_journal(0);
  ASSERT_OK(records);
  EXPECT_EQ(records->size(), seq + 1) << "no record of a failed write counts twice or is missing";
}

TEST(FullDisk, ClosingOnAFullDiskAndOpeningAgainKeepsEveryAcknowledgedRecord) {
  const TempDir dir;
  const std::string disk_path = dir / "disk";
  const SmallDisk disk(disk_path, "size=8m");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a tmpfs needs root";
  std::uint64_t acknowledged = 0;
  {
    const auto store = Store::open(disk_path + "/run", store_options());
    ASSERT_OK(store);
    Status journal;
    while (journal) {
      const std::vector<JournalRecord> record = {{acknowledged + 1, std::string(4096, 'r')}};
      journal = (*store)->append_journal(record);
      if (journal) ++acknowledged;
    }
    EXPECT_EQ(journal.error().code, ErrorCode::kNoSpace) << journal.error().message;
  }
  ASSERT_EQ(::mount("tmpfs", disk_path.c_str(), "tmpfs", MS_REMOUNT, "size=64m"), 0);
  const auto store = Store::open(disk_path + "/run", store_options());
  ASSERT_OK(store);
  const std::uint64_t found = (*store)->read_journal(0)->size();
  EXPECT_GE(found, acknowledged);
  EXPECT_LE(found, acknowledged + 1);
}

TEST(FullDisk, ALogDropsWhatDoesNotFitAndGoesOnWhenThereIsSpace) {
  const TempDir dir;
  const std::string disk_path = dir / "disk";
  const SmallDisk disk(disk_path, "size=64k");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a tmpfs needs root";
  const std::shared_ptr<rocksdb::Logger> log = make_rocks_log(disk_path + "/records");
  for (int i = 0; i < 2000; ++i) rocksdb::Warn(log, "line %d of a full disk", i);
  ASSERT_EQ(::mount("tmpfs", disk_path.c_str(), "tmpfs", MS_REMOUNT, "size=1m"), 0);
  rocksdb::Warn(log, "there is space again");
  rocksdb::Info(log, "nothing to worry about");
  std::ifstream file(disk_path + "/records/LOG");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  EXPECT_NE(text.find("line 0 of a full disk\n"), std::string::npos) << text;
  EXPECT_EQ(text.find("line 1999 of"), std::string::npos);
  EXPECT_NE(text.find("there is space again\n"), std::string::npos);
  EXPECT_EQ(text.find("nothing to worry about"), std::string::npos);
}

TEST(RocksLog, IsTheOwnersAndReadersWriteNone) {
  const TempDir dir;
  const std::string path = dir / "records";
  ASSERT_OK(open_records(path, OpenAs::kPrimary, nullptr));
  EXPECT_TRUE(fs::remove(path + "/LOG"));
  ASSERT_OK(open_records(path, OpenAs::kReadOnly, nullptr));
  EXPECT_FALSE(fs::exists(path + "/LOG"));
}

TEST(ReadOnlyDisk, IsRefusedToTheOwnerAndFineForAReader) {
  const TempDir dir;
  const std::string disk_path = dir / "disk";
  SmallDisk disk(disk_path, "size=24m");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a tmpfs needs root";
  const Model model = random_model(1);
  {
    const auto store = Store::open(disk_path + "/run", store_options());
    ASSERT_OK(store);
    ASSERT_OK(save(**store, 1, model));
  }
  ASSERT_TRUE(disk.make_read_only());
  const auto store = Store::open(disk_path + "/run", store_options());
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, ErrorCode::kPermission) << store.error().message;
  const auto reader = StoreReader::open_read_only(disk_path + "/run");
  ASSERT_OK(reader);
  EXPECT_OK(compare(**reader, *(*reader)->manifest(1), model));
}

}  // namespace
}  // namespace tenax::checkpoint
