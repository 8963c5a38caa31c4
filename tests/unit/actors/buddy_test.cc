// Copies of slots go to a buddy over real sockets on loopback, and come back.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <random>

#include "actors/buddy_fetch.h"
#include "actors/buddy_sender.h"
#include "actors/buddy_store.h"
#include "checkpoint/slot.h"
#include "common/annotations.h"

namespace tenax::actors {
namespace {

using checkpoint::SlotPair;

constexpr std::size_t kBytes = 3 * wire::kPieceBytes + 12345 * 4;

class BuddyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto pair = SlotPair::open(checkpoint::slot_prefix(run_, "a0", 3), kBytes);
    ASSERT_TRUE(pair) << pair.error().message;
    pair_ = std::make_unique<SlotPair>(*std::move(pair));
    open_store();
  }
  void TearDown() override {
    store_.reset();
    pair_.reset();
    EXPECT_TRUE(checkpoint::unlink_segments(run_));
  }

  void open_store() {
    store_.reset();
    auto store = BuddyStore::open(identity(), "127.0.0.1", 1);
    ASSERT_TRUE(store) << store.error().message;
    store_ = *std::move(store);
  }

  void fill(int index, std::int64_t step) {
    std::mt19937_64 rng(static_cast<std::uint64_t>(step));
    const auto payload = pair_->begin(index);
    for (std::size_t i = 0; i + 8 <= payload.size(); i += 8) {
      const std::uint64_t value = rng();
      std::memcpy(payload.data() + i, &value, 8);
    }
    const checkpoint::SlotHeader header{2, step, 5, 77, payload.size(), std::nullopt};
    ASSERT_TRUE(pair_->seal(index, header));
  }

  RunIdentity identity(const std::string& secret = "secret") const {
    RunIdentity identity;
    identity.id = run_;
    identity.secret = secret;
    identity.keys = keys_;
    return identity;
  }

  /// Copies one step and waits for the outcome.
  Status copy(std::int64_t step, const std::string& secret = "secret",
              Duration timeout = std::chrono::seconds(30)) {
    Mutex mutex;
    CondVar changed;
    std::optional<Status> outcome;
    BuddySenderOptions options;
    options.identity = identity(secret);
    options.timeout = timeout;
    options.endpoint = [this]() -> Result<std::string> { return store_->endpoint(); };
    options.on_done = [&](const CopyJob&, const Status& status) {
      {
        MutexLock lock(mutex);
        outcome = status;
      }
      changed.notify_all();
    };
    BuddySender sender(options);
    sender.copy({{0, 3, 2, step}, 5, 77});
    MutexLock lock(mutex);
    while (!outcome) changed.wait(mutex);
    return *outcome;
  }

  Result<std::vector<std::byte>> fetch(std::int64_t step, std::size_t bytes = kBytes) {
    FetchCopyOptions options;
    options.endpoint = store_->endpoint();
    options.identity = identity();
    options.id = {0, 3, 2, step};
    options.name = "test" + std::to_string(step);
    options.timeout = std::chrono::seconds(30);
    std::vector<std::byte> out(bytes);
    const std::span<std::byte> all(out);
    const std::span<std::byte> parts[] = {all.first(1000), all.subspan(1000)};
    TENAX_RETURN_IF_ERROR(fetch_copy(options, parts));
    return out;
  }

  const wire::KeyPair keys_ = *wire::make_key_pair();
  std::string run_ = "buddytest-" + std::to_string(::getpid());
  std::unique_ptr<SlotPair> pair_;
  std::unique_ptr<BuddyStore> store_;
};

TEST_F(BuddyTest, ASealedSlotIsCopiedAndComesBackAfterTheOriginalIsGone) {
  fill(0, 10);
  const std::vector<std::byte> expected(pair_->payload(0).begin(), pair_->payload(0).end());
  const Status copied = copy(10);
  ASSERT_TRUE(copied) << copied.error().message;
  pair_.reset();
  ASSERT_TRUE(checkpoint::unlink_pair(checkpoint::slot_prefix(run_, "a0", 3)));
  const auto got = fetch(10);
  ASSERT_TRUE(got) << got.error().message;
  EXPECT_TRUE(*got == expected);
}

TEST_F(BuddyTest, TheLastTwoStepsAreHeldAndOlderOnesSayWhatIsThere) {
  for (const std::int64_t step : {10, 20, 30}) {
    fill(static_cast<int>(step / 10 % 2), step);
    const Status copied = copy(step);
    ASSERT_TRUE(copied) << copied.error().message;
  }
  EXPECT_TRUE(fetch(20));
  EXPECT_TRUE(fetch(30));
  const auto old = fetch(10);
  ASSERT_FALSE(old);
  EXPECT_EQ(old.error().code, ErrorCode::kNotFound);
  EXPECT_NE(old.error().message.find("branch 2, step 30"), std::string::npos)
      << old.error().message;
}

TEST_F(BuddyTest, TheNextAgentInThePlaceTakesTheCopiesOver) {
  fill(0, 10);
  ASSERT_TRUE(copy(10));
  open_store();
  EXPECT_TRUE(fetch(10));
  fill(1, 20);
  ASSERT_TRUE(copy(20));
  EXPECT_TRUE(fetch(10));
  EXPECT_TRUE(fetch(20));
}

TEST_F(BuddyTest, AStepThatTheSlotNoLongerHoldsIsNotCopied) {
  fill(0, 10);
  ASSERT_TRUE(copy(10));
  fill(0, 20);
  EXPECT_FALSE(copy(10)) << "the slot holds step 20 now";
  EXPECT_TRUE(fetch(10)) << "the earlier copy is still whole";
}

TEST_F(BuddyTest, AnotherSizeIsNotFetched) {
  fill(0, 10);
  ASSERT_TRUE(copy(10));
  const auto got = fetch(10, kBytes - 4);
  ASSERT_FALSE(got);
  EXPECT_NE(got.error().message.find("expected"), std::string::npos) << got.error().message;
}

TEST_F(BuddyTest, FramesWithoutTheRunsSecretChangeNothing) {
  fill(0, 10);
  EXPECT_FALSE(copy(10, "another secret", std::chrono::milliseconds(200)));
  EXPECT_FALSE(fetch(10));
}

}  // namespace
}  // namespace tenax::actors
