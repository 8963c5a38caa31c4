// RocksDB's own ldb and sst_dump (package rocksdb-tools) read what the store writes: nobody needs
// Tenax to look into a run.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "checkpoint/rocks_db.h"
#include "checkpoint/shard_key.h"
#include "tests/unit/checkpoint/format_1.h"
#include "tests/unit/checkpoint/model_on_disk.h"

namespace tenax::checkpoint {
namespace {

struct Ran {
  int status = -1;
  std::string output;
};

Ran run(const std::string& command) {
  Ran ran;
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return ran;
  char buffer[4096];
  std::size_t n = 0;
  while ((n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0) ran.output.append(buffer, n);
  ran.status = ::pclose(pipe);
  return ran;
}

bool installed() { return run("ldb --version && sst_dump --version").status == 0; }

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

std::string hex(std::string_view bytes) {
  std::string out = "0x";
  for (const char c : bytes) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02X", static_cast<unsigned char>(c));
    out += digits;
  }
  return out;
}

class RocksDbTools : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!installed()) GTEST_SKIP() << "rocksdb-tools (ldb, sst_dump) is not installed";
    auto store = Store::open(dir_.path(), store_options());
    ASSERT_OK(store);
    SaveOptions options;
    for (std::uint64_t id = 1; id <= 2; ++id) {
      options.journal_seq = id;
      const auto saved = save(**store, id, random_model(id), options);
      ASSERT_OK(saved);
    }
    ASSERT_OK((*store)->append_journal(std::vector<JournalRecord>{{3, "third"}}, "the state"));
  }

  const TempDir dir_;
};

TEST_F(RocksDbTools, LdbListsTheFamiliesAndScansTheRecords) {
  const std::string db = "--db=" + records_path(dir_.path());
  const Ran families = run("ldb " + db + " list_column_families");
  EXPECT_EQ(families.status, 0) << families.output;
  for (const char* family : {"default", "journal", "manifests"}) {
    EXPECT_NE(families.output.find(family), std::string::npos) << families.output;
  }
  const Ran journal = run("ldb " + db + " --column_family=journal scan --hex");
  EXPECT_EQ(journal.status, 0) << journal.output;
  EXPECT_NE(journal.output.find(hex(encode_id(3)) + " : " + hex("third")), std::string::npos)
      << journal.output;
  EXPECT_EQ(count(journal.output, " : "), 3u) << journal.output;
  const Ran manifests = run("ldb " + db + " --column_family=manifests scan --hex");
  EXPECT_EQ(count(manifests.output, hex("TNXM")), 2u) << manifests.output;
  const Ran state = run("ldb " + db + " get state");
  EXPECT_NE(state.output.find("the state"), std::string::npos) << state.output;
}

TEST_F(RocksDbTools, SstDumpChecksTheFilesOfTheRecords) {
  const std::string db = records_path(dir_.path());
  // The log of the last owner becomes table files when the next one opens and flushes.
  const Ran flushed =
      run("ldb --db=" + db + " --try_load_options --column_family=manifests compact");
  EXPECT_EQ(flushed.status, 0) << flushed.output;
  const Ran check = run("sst_dump --file=" + db + " --command=check --verify_checksum");
  EXPECT_EQ(check.status, 0) << check.output;
  EXPECT_GT(count(check.output, "Process "), 0u) << check.output;
  EXPECT_EQ(count(check.output, "Corruption"), 0u) << check.output;
}

TEST_F(RocksDbTools, OldShardFilesAreReadByThemToo) {
  const std::string run_path = dir_ / "old";
  ASSERT_OK(save_in_format_1(run_path, 1, random_model(1)));
  const Ran keys = run("ldb --db=" + shards_path(run_path) + " scan --no_value --hex");
  EXPECT_EQ(keys.status, 0) << keys.output;
  EXPECT_GT(count(keys.output, hex(encode_id(1))), 10u) << keys.output;
  const Ran check =
      run("sst_dump --file=" + shards_path(run_path) + " --command=check --verify_checksum");
  EXPECT_EQ(check.status, 0) << check.output;
  EXPECT_EQ(count(check.output, "Corruption"), 0u) << check.output;
}

}  // namespace
}  // namespace tenax::checkpoint
