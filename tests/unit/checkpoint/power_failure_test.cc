// The machine dies at the n-th change of a file, for every kind of moment, and what was never
// synced is gone. In process, over a file layer that fails; the seeds choose the moment and what
// the run is doing.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <random>

#include "tests/unit/checkpoint/fault_files.h"
#include "tests/unit/checkpoint/model_on_disk.h"

namespace tenax::checkpoint {
namespace {

/// Enough of a model to have several writers, files and chunks.
Model small_model(std::uint64_t seed) {
  std::mt19937_64 rng(seed);
  Model model;
  for (const char* kind : {kParameter, kAdamM}) {
    LogicalTensor t{kind, "w", {24, 130}, std::vector<float>(24 * 130)};
    for (float& v : t.values) v = static_cast<float>(rng() % 1000);
    model.push_back(std::move(t));
  }
  return model;
}

/// What the caller was told.
struct Acknowledged {
  std::uint64_t seq = 0;        ///< last record that was written
  std::uint64_t tried_seq = 0;  ///< last record that was tried
  std::map<std::uint64_t, bool>
      checkpoints;             ///< id -> committed and not yet removed, as acknowledged
  std::uint64_t in_doubt = 0;  ///< the checkpoint whose commit or removal failed last
};

/// Saves, journals and removes until something fails or `rounds` are over.
void work(Store& store, rocksdb::Env* env, int rounds, std::mt19937_64& rng, Acknowledged& acked,
          const StepHook& hook = {}) {
  std::uint64_t id = *store.highest_checkpoint_id();
  for (int round = 0; round < rounds; ++round) {
    const std::vector<JournalRecord> report = {{acked.tried_seq = acked.seq + 1, "report"}};
    if (!store.append_journal(report, "state")) return;
    acked.seq = acked.tried_seq;

    SaveOptions how;
    how.seed = rng();
    how.num_writers = 2;
    how.journal_seq = acked.tried_seq = acked.seq + 1;
    how.write.env = env;
    how.write.hook = hook;
    acked.in_doubt = ++id;
    if (!save(store, id, small_model(id), how)) return;
    acked.seq = acked.tried_seq;
    acked.checkpoints[id] = true;
    acked.in_doubt = 0;

    if (id < 3 || !acked.checkpoints[id - 2]) continue;
    const std::vector<JournalRecord> why = {{acked.tried_seq = acked.seq + 1, "removed"}};
    acked.in_doubt = id - 2;
    if (!store.remove(id - 2, why)) return;
    acked.seq = acked.tried_seq;
    acked.checkpoints[id - 2] = false;
    acked.in_doubt = 0;
  }
}

void expect_what_was_acknowledged(const std::string& run, const Acknowledged& acked) {
  const auto store = Store::open(run, store_options());
  ASSERT_OK(store);
  EXPECT_TRUE((*store)->open_report().dropped.empty())
      << "a file that a manifest may name was not durable (C1): "
      << (*store)->open_report().dropped.front();
  const auto records = (*store)->read_journal(0);
  ASSERT_OK(records);
  ASSERT_GE(records->size(), acked.seq) << "an acknowledged record is gone";
  ASSERT_LE(records->size(), acked.tried_seq);
  for (std::size_t i = 0; i < records->size(); ++i) ASSERT_EQ((*records)[i].seq, i + 1);

  for (const auto& [id, there] : acked.checkpoints) {
    if (id == acked.in_doubt) continue;
    ASSERT_EQ((*store)->manifest(id).has_value(), there) << "checkpoint " << id;
  }
  std::uint64_t bytes = 0;
  const auto manifests = (*store)->manifests();
  ASSERT_OK(manifests);
  for (const ManifestEntry& entry : *manifests) {
    ASSERT_OK(entry.manifest);
    ASSERT_OK(compare(**store, *entry.manifest, small_model(entry.checkpoint_id)));
    for (const StoredFile& f : entry.manifest->files) bytes += f.bytes;
  }
  std::uint64_t on_disk = 0;
  for (const auto& file : std::filesystem::directory_iterator(run + "/chunks")) {
    if (file.path().extension() == ".chunks") on_disk += file.file_size();
  }
  ASSERT_EQ(on_disk, bytes) << "orphaned files";
}

/// Runs `one` for seeds 1, 2, ...: 100, or 5000 with TENAX_TEST_FULL=1, and TENAX_SEED=n alone.
void for_seeds(const std::function<void(std::uint64_t seed)>& one) {
  std::uint64_t first = 1;
  std::uint64_t last = std::getenv("TENAX_TEST_FULL") != nullptr ? 5000 : 100;
  if (const char* text = std::getenv("TENAX_SEED")) {
    first = last = std::strtoull(text, nullptr, 10);
  }
  for (std::uint64_t seed = first; seed <= last; ++seed) {
    SCOPED_TRACE(fmt::format(
        "TENAX_SEED={} build/tests/unit/checkpoint/tenax_checkpoint_test "
        "--gtest_filter={}.{}",
        seed, ::testing::UnitTest::GetInstance()->current_test_info()->test_suite_name(),
        ::testing::UnitTest::GetInstance()->current_test_info()->name()));
    one(seed);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(PowerFailure, AtAnyChangeOfAFileLosesNothingThatWasAcknowledged) {
  for_seeds([](std::uint64_t seed) {
    std::mt19937_64 rng(seed);
    const TempDir dir;
    const std::string run = dir / "run";
    auto files = std::make_shared<FaultFiles>();
    const auto env = rocksdb::NewCompositeEnv(files);
    StoreOptions options = store_options();
    options.env = env.get();
    Acknowledged acked;
    {
      auto store = Store::open(run, options);
      ASSERT_OK(store);
      work(**store, env.get(), static_cast<int>(rng() % 3), rng, acked);
      files->arm(1 + rng() % 120, FaultFiles::Fault::kDead);
      work(**store, env.get(), 4, rng, acked);
    }
    files->lose_unsynced(rng);
    expect_what_was_acknowledged(run, acked);
  });
}

TEST(PowerFailure, AtAnyNamedStepLosesNothingThatWasAcknowledged) {
  std::map<std::string_view, int> crashes;
  for_seeds([&](std::uint64_t seed) {
    std::mt19937_64 rng(seed);
    const TempDir dir;
    const std::string run = dir / "run";
    auto files = std::make_shared<FaultFiles>();
    const auto env = rocksdb::NewCompositeEnv(files);
    const std::string_view at = kSaveSteps[seed % kSaveSteps.size()];
    std::uint64_t left = 1 + rng() % 5;
    const StepHook hook = [&](std::string_view step) -> Status {
      if (step == at && left > 0 && --left == 0) {
        files->die();
        ++crashes[at];
      }
      return {};
    };
    StoreOptions options = store_options();
    options.env = env.get();
    options.hook = hook;
    Acknowledged acked;
    {
      auto store = Store::open(run, options);
      ASSERT_OK(store);
      work(**store, env.get(), 8, rng, acked, hook);
    }
    files->lose_unsynced(rng);
    expect_what_was_acknowledged(run, acked);
  });
  if (std::getenv("TENAX_SEED") == nullptr) {
    for (const std::string_view step : kSaveSteps) EXPECT_GT(crashes[step], 0) << step;
  }
}

TEST(SyncFailure, OnceDiscardsTheFilesOfTheWriterWhichAreWrittenAgainFromTheSlot) {
  for (std::uint64_t n = 1; n <= 12; ++n) {
    SCOPED_TRACE("change " + std::to_string(n));
    const TempDir dir;
    auto files = std::make_shared<FaultFiles>();
    const auto env = rocksdb::NewCompositeEnv(files);
    const auto store = Store::open(dir / "run", store_options());
    ASSERT_OK(store);
    const Model model = small_model(n);
    std::mt19937_64 rng(n);
    const WriterPart slot = random_layout(model, 1, rng)[0];
    ShardWriteRequest request{
        (*store)->staging_dir(), 1, slot.writer, slot.table, slot.payload, small_files()};
    request.options.env = env.get();
    files->arm(n, FaultFiles::Fault::kSyncOnce);
    auto written = write_shard(request);
    if (files->fired()) {
      ASSERT_FALSE(written) << "a failed sync was taken for a good one";
      EXPECT_EQ(written.error().code, ErrorCode::kIo);
      EXPECT_TRUE(std::filesystem::is_empty((*store)->staging_dir()));
      written = write_shard(request);
    }
    ASSERT_OK(written);
    Manifest manifest;
    manifest.checkpoint_id = 1;
    ASSERT_OK(add_to_manifest(*written, manifest));
    ASSERT_OK((*store)->commit(manifest, written->files, {}));
    EXPECT_OK(compare(**store, manifest, model));
  }
}

TEST(SyncFailure, OnceIsReportedAndTheStoreGoesOn) {
  for_seeds([](std::uint64_t seed) {
    std::mt19937_64 rng(seed);
    const TempDir dir;
    const std::string run = dir / "run";
    auto files = std::make_shared<FaultFiles>();
    const auto env = rocksdb::NewCompositeEnv(files);
    StoreOptions options = store_options();
    options.env = env.get();
    Acknowledged acked;
    {
      auto store = Store::open(run, options);
      ASSERT_OK(store);
      files->arm(1 + rng() % 80, FaultFiles::Fault::kSyncOnce);
      work(**store, env.get(), 3, rng, acked);
      // Retrying is the caller's part. Nothing may be lost or counted twice by it.
      const std::uint64_t seq = std::max(acked.seq, (*store)->last_journal_seq()->value_or(0));
      acked.seq = acked.tried_seq = seq;
      // A removal that failed may have withdrawn the manifest before: what the store says now
      // holds.
      if (const auto removal = acked.checkpoints.find(acked.in_doubt);
          removal != acked.checkpoints.end()) {
        removal->second = (*store)->manifest(acked.in_doubt).has_value();
      }
      files->arm(0, FaultFiles::Fault::kDead);
      const std::uint64_t before = acked.checkpoints.size();
      work(**store, env.get(), 2, rng, acked);
      EXPECT_GE(acked.checkpoints.size(), before + 2) << "the store did not go on";
      acked.in_doubt = 0;
    }
    expect_what_was_acknowledged(run, acked);
  });
}

}  // namespace
}  // namespace tenax::checkpoint
