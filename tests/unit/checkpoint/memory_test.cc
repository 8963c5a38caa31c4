// Writing and reading a checkpoint take the same memory whatever the model's size: what the
// allocator has given out is looked at before every chunk.
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>

#include "checkpoint/box.h"
#include "tests/unit/checkpoint/model_on_disk.h"

namespace tenax::checkpoint {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
/// Addresses, not memory, that the allocator spends to put a buffer at a huge page.
constexpr std::uint64_t kAlignment = 2 * kMiB;
/// For each of two threads two buffers of 8 MiB, and what is small.
constexpr std::uint64_t kWriteLimit = 2 * 2 * (8 * kMiB + kAlignment) + 8 * kMiB;
/// For each of two threads a chunk, and what is small.
constexpr std::uint64_t kReadLimit = 2 * (4 * kMiB + kAlignment) + 4 * kMiB;

std::uint64_t allocated() {
  const struct mallinfo2 info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
}

class Peak {
 public:
  void look() {
    const std::uint64_t now = allocated();
    std::uint64_t seen = most_;
    while (now > seen && !most_.compare_exchange_weak(seen, now)) continue;
  }
  std::uint64_t above() const { return most_ > before_ ? most_ - before_ : 0; }

 private:
  std::uint64_t before_ = allocated();
  std::atomic<std::uint64_t> most_ = 0;
};

class PeakSource final : public ChunkSource {
 public:
  PeakSource(const ChunkSource& source, Peak& peak) : source_(source), peak_(peak) {}
  Result<std::span<const std::byte>> read_chunk(const Manifest& manifest, const StoredShard& shard,
                                                std::uint32_t index,
                                                ChunkBuffer& buffer) const override {
    auto bytes = source_.read_chunk(manifest, shard, index, buffer);
    peak_.look();
    return bytes;
  }
  std::string locate(const Manifest& m, const StoredShard& s, std::uint32_t i) const override {
    return source_.locate(m, s, i);
  }

 private:
  const ChunkSource& source_;
  Peak& peak_;
};

struct Peaks {
  std::uint64_t write = 0;
  std::uint64_t read = 0;
};

Peaks peaks_of(Store& store, std::uint64_t id, std::uint64_t mebibytes) {
  const std::vector<std::int64_t> shape = {static_cast<std::int64_t>(mebibytes), 1 << 18};
  std::vector<TensorShard> table = {{"w", kParameter, DType::kFloat32, shape, whole(shape), 0, 0}};
  std::vector<std::byte> payload(assign_offsets(table), std::byte{1});
  Peaks peaks;
  Manifest manifest;
  manifest.checkpoint_id = id;
  {
    Peak peak;
    ShardWriteRequest request{store.staging_dir(), id, "w0", table, payload, {}};
    request.options.num_threads = 2;
    request.options.hook = [&](std::string_view) -> Status {
      peak.look();
      return {};
    };
    const auto files = write_shard(request);
    EXPECT_OK(files);
    peaks.write = peak.above();
    EXPECT_OK(add_to_manifest(*files, manifest));
    EXPECT_OK(store.commit(manifest, files->files, {}));
  }
  const std::span<float> out(reinterpret_cast<float*>(payload.data()), payload.size() / 4);
  Peak peak;
  const PeakSource source(store, peak);
  const CheckpointReader reader(source, manifest);
  const BoxRequest request{kParameter, "w", whole(shape), out};
  EXPECT_OK(reader.read_boxes({&request, 1}, 2));
  peaks.read = peak.above();
  EXPECT_OK(store.remove(id, {}));
  return peaks;
}

TEST(Memory, OfASaveAndARestoreIsAConstantWhateverTheModel) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "what is counted is the C library's allocator; a sanitizer has its own";
#endif
  const TempDir dir;
  const auto store = Store::open(dir / "run", store_options());
  ASSERT_OK(store);
  const Peaks small = peaks_of(**store, 1, 96);
  const Peaks large = peaks_of(**store, 2, 384);
  EXPECT_LE(large.write, kWriteLimit);
  EXPECT_LE(large.read, kReadLimit);
  EXPECT_LE(large.write, small.write + kMiB);
  EXPECT_LE(large.read, small.read + kMiB);
  EXPECT_GT(large.write, 16 * kMiB) << "the count sees the buffers";
}

}  // namespace
}  // namespace tenax::checkpoint
