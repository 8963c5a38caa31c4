// The actor that writes sealed slots, over a disk that fails.
#include "actors/slot_writer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "actors/caf_messages.h"
#include "actors/shard_codec.h"
#include "checkpoint/slot.h"
#include "tests/unit/checkpoint/fault_files.h"
#include "tests/unit/checkpoint/model_on_disk.h"

namespace tenax::actors {
namespace {

using checkpoint::FaultFiles;

constexpr std::uint64_t kGeneration = 3;
constexpr std::int64_t kStep = 40;

class SlotWriterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto store = checkpoint::Store::open(dir_.path(), checkpoint::store_options());
    ASSERT_TRUE(store) << store.error().message;
    store_ = *std::move(store);
    std::mt19937_64 rng(1);
    model_ = checkpoint::random_model(1);
    part_ = checkpoint::random_layout(model_, 1, rng)[0];
    auto pair =
        checkpoint::SlotPair::open(checkpoint::slot_prefix(run_, "a0", 0), part_.payload.size());
    ASSERT_TRUE(pair) << pair.error().message;
    const auto payload = pair->begin(0);
    std::copy(part_.payload.begin(), part_.payload.end(), payload.begin());
    ASSERT_TRUE(pair->seal(0, {0, kStep, 5, 77, payload.size(), std::nullopt}));
    pair_ = std::make_unique<checkpoint::SlotPair>(*std::move(pair));
  }
  void TearDown() override {
    pair_.reset();
    EXPECT_TRUE(checkpoint::unlink_segments(run_));
  }

  /// What the agent hears.
  wire::Body write(rocksdb::Env* env) {
    ActorConfig config(1);
    caf::actor_system system(config);
    caf::scoped_actor self(system);
    SlotWriterOptions options;
    options.run_dir = dir_.path();
    options.run_id = run_;
    options.num_threads = 2;
    options.env = env;
    const caf::actor writer = self->spawn<caf::detached>(slot_writer, std::move(options),
                                                         caf::actor_cast<caf::actor>(self));
    WriteSlot job;
    job.generation = kGeneration;
    job.sealed.step = kStep;
    job.sealed.table = checkpoint::encode_table(part_.table);
    job.sealed.writes.resize(part_.table.size());
    std::iota(job.sealed.writes.begin(), job.sealed.writes.end(), 0u);
    self->send(writer, std::move(job));
    wire::Body answer;
    self->receive([&](SlotWritten& done) {
      EXPECT_EQ(done.generation, kGeneration);
      answer = std::move(done.answer);
    });
    self->send_exit(writer, caf::exit_reason::user_shutdown);
    return answer;
  }

  bool staging_is_empty() const { return std::filesystem::is_empty(store_->staging_dir()); }

  const std::string run_ = "slot-writer-" + std::to_string(getpid());
  checkpoint::TempDir dir_;
  std::unique_ptr<checkpoint::Store> store_;
  checkpoint::Model model_;
  checkpoint::WriterPart part_;
  std::unique_ptr<checkpoint::SlotPair> pair_;
};

TEST_F(SlotWriterTest, WritesAgainFromTheSlotWhatASyncRefusedOnce) {
  auto files = std::make_shared<FaultFiles>();
  const auto env = rocksdb::NewCompositeEnv(files);
  files->arm(1, FaultFiles::Fault::kSyncOnce);
  const wire::Body answer = write(env.get());
  ASSERT_TRUE(files->fired());
  const auto* written = std::get_if<wire::ShardWritten>(&answer);
  ASSERT_NE(written, nullptr) << std::get<wire::ShardFailed>(answer).error;

  const auto shards = decode_shard_files(written->shard);
  ASSERT_TRUE(shards) << shards.error().message;
  checkpoint::Manifest manifest;
  manifest.checkpoint_id = checkpoint_id(kGeneration, kStep);
  ASSERT_TRUE(add_to_manifest(*shards, manifest));
  ASSERT_TRUE(store_->commit(manifest, shards->files, {}));
  const Status same = checkpoint::compare(*store_, manifest, model_);
  EXPECT_TRUE(same) << same.error().message;
  EXPECT_TRUE(staging_is_empty()) << "the refused files are gone";
}

TEST_F(SlotWriterTest, ReportsADiskThatGoesOnFailingAndLeavesNothing) {
  auto files = std::make_shared<FaultFiles>();
  const auto env = rocksdb::NewCompositeEnv(files);
  files->arm(3, FaultFiles::Fault::kDead);
  const wire::Body answer = write(env.get());
  const auto* failed = std::get_if<wire::ShardFailed>(&answer);
  ASSERT_NE(failed, nullptr);
  EXPECT_NE(failed->error.find("injected"), std::string::npos) << failed->error;
  EXPECT_EQ(failed->step, kStep);
}

TEST_F(SlotWriterTest, SaysThatASlotWasGivenAway) {
  pair_->invalidate(0);
  const wire::Body answer = write(nullptr);
  ASSERT_TRUE(std::holds_alternative<wire::ShardFailed>(answer));
  EXPECT_TRUE(staging_is_empty());
}

}  // namespace
}  // namespace tenax::actors
