// Checkpoint figures, every alternative in the same run and alternating, medians:
//   stall    copy of a shard into a sealed slot / plain memcpy of the same bytes
//   write    slot -> SST files -> committed / one thread of plain O_DIRECT writing + fsync
//   restore  cold read of every tensor, hashes checked / plain sequential O_DIRECT read of as many
//   bytes
//
//   checkpoint_bench DIRECTORY [MIB=2048] [ROUNDS=5] [WRITER_THREADS=2]
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/box.h"
#include "checkpoint/reader.h"
#include "checkpoint/shard_writer.h"
#include "checkpoint/slot.h"
#include "checkpoint/store.h"
#include "checkpoint/store_reader.h"

namespace tenax::checkpoint {
namespace {

constexpr std::size_t kPiece = 8 << 20;

template <class T>
T must(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "%s\n", result.error().message.c_str());
    std::exit(1);
  }
  return *std::move(result);
}

void must(const Status& status) {
  if (status) return;
  std::fprintf(stderr, "%s\n", status.error().message.c_str());
  std::exit(1);
}

double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct FreeDeleter {
  void operator()(std::byte* p) const { std::free(p); }
};
using AlignedBuffer = std::unique_ptr<std::byte, FreeDeleter>;

AlignedBuffer aligned(std::size_t bytes) {
  return AlignedBuffer(static_cast<std::byte*>(std::aligned_alloc(4096, bytes)));
}

void plain_write(const std::string& path, const std::byte* from, std::size_t bytes) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT, 0644);
  for (std::size_t at = 0; at < bytes; at += kPiece) {
    if (::write(fd, from + at, std::min(kPiece, bytes - at)) < 0) std::perror("write");
  }
  ::fsync(fd);
  ::close(fd);
}

void plain_read(const std::string& path, std::byte* into, std::size_t bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECT);
  for (std::size_t at = 0; at < bytes; at += kPiece) {
    if (::read(fd, into + at, std::min(kPiece, bytes - at)) < 0) std::perror("read");
  }
  ::close(fd);
}

/// Puts the store's files out of the page cache.
void drop_cache(const Manifest& manifest, const Store& store) {
  for (const StoredShard& s : manifest.shards) {
    const std::string path =
        store.locate({manifest.checkpoint_id, s.writer, s.shard.kind, s.shard.name, s.part, 0});
    const int fd = ::open(path.c_str(), O_RDONLY);
    if (fd < 0) continue;
    ::fsync(fd);
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
  }
}

void print_ratio(const char* what, const std::vector<double>& ours,
                 const std::vector<double>& plain, double gigabytes) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < ours.size(); ++i) ratios.push_back(plain[i] / ours[i]);
  fmt::print("{:<28} {:6.2f} GB/s   plain {:6.2f} GB/s   plain time / ours {:.2f}\n", what,
             gigabytes / median(ours), gigabytes / median(plain), median(ratios));
}

int run(const std::string& directory, std::size_t mebibytes, int rounds, int threads) {
  const std::size_t bytes = mebibytes << 20;
  const double gigabytes = static_cast<double>(bytes) / 1e9;
  std::vector<TensorShard> table;
  for (std::size_t at = 0; at < bytes; at += 64 << 20) {
    const auto rows =
        static_cast<std::int64_t>(std::min<std::size_t>(64 << 20, bytes - at) / 16384);
    const std::vector<std::int64_t> shape = {rows, 4096};
    table.push_back({fmt::format("h.{:03}.weight", at >> 26), kParameter, DType::kFloat32, shape,
                     whole(shape), 0, 0});
  }
  assign_offsets(table, 4096);

  const AlignedBuffer source = aligned(bytes);
  const AlignedBuffer target = aligned(bytes);
  std::mt19937_64 rng(1);
  for (std::size_t i = 0; i < bytes / 8; ++i) {
    const std::uint64_t value = rng();
    std::memcpy(source.get() + 8 * i, &value, 8);
  }
  std::memset(target.get(), 1, bytes);

  const std::string prefix = slot_prefix("bench", std::to_string(::getpid()), 0);
  SlotPair slots = must(SlotPair::open(prefix, bytes));
  StoreOptions store_options;
  store_options.holder = {"bench", ::getpid(), 1, {}};
  const std::string run_path = directory + "/checkpoint_bench";
  const auto store = must(Store::open(run_path, store_options));
  std::uint64_t id = must(store->highest_checkpoint_id());
  const std::string plain_path = directory + "/checkpoint_bench.plain";

  std::vector<double> stall, copy, write, plain_w, restore, plain_r, stripes;
  for (int round = 0; round < rounds; ++round) {
    copy.push_back(seconds([&] { std::memcpy(target.get(), source.get(), bytes); }));
    stall.push_back(seconds([&] {
      std::memcpy(slots.begin(0).data(), source.get(), bytes);
      must(slots.seal(0, {0, round, 0, 0, bytes, std::nullopt}));
    }));
    plain_w.push_back(seconds([&] { plain_write(plain_path, source.get(), bytes); }));
    Manifest manifest;
    manifest.checkpoint_id = ++id;
    write.push_back(seconds([&] {
      ShardWriteRequest request{store->staging_dir(), id, "w0", table, slots.payload(0), {}};
      request.options.num_threads = threads;
      const ShardFiles files = must(write_shard(request));
      must(add_to_manifest(files, manifest));
      must(store->commit(manifest, files.files, {}));
    }));
    drop_cache(manifest, *store);
    plain_r.push_back(seconds([&] { plain_read(plain_path, target.get(), bytes); }));
    const auto floats = reinterpret_cast<float*>(target.get());
    const auto reader_store = must(StoreReader::open_read_only(run_path));
    const CheckpointReader reader(*reader_store, manifest);
    std::vector<BoxRequest> same, halves;
    for (const TensorShard& t : table) {
      same.push_back({t.kind, t.name, t.box, {floats + t.offset / 4, t.bytes / 4}});
      // Another layout: the left half of the columns, as a tensor-parallel rank would take them.
      const Box half{{0, 0}, {t.global_shape[0], 2048}};
      halves.push_back({t.kind, t.name, half, {floats + t.offset / 4, t.bytes / 8}});
    }
    restore.push_back(seconds([&] { must(reader.read_boxes(same, threads)); }));
    drop_cache(manifest, *store);
    stripes.push_back(seconds([&] { must(reader.read_boxes(halves, threads)); }));
    must(store->remove(id, {}));
  }
  fmt::print("{} MiB, {} rounds, {} threads, {}\n", mebibytes, rounds, threads, directory);
  print_ratio("stall (copy + seal)", stall, copy, gigabytes);
  print_ratio("write to committed", write, plain_w, gigabytes);
  print_ratio("restore, same layout", restore, plain_r, gigabytes);
  print_ratio("restore, half the columns", stripes, plain_r, gigabytes);
  ::unlink(plain_path.c_str());
  must(unlink_pair(prefix));
  return 0;
}

}  // namespace
}  // namespace tenax::checkpoint

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: checkpoint_bench DIRECTORY [MIB] [ROUNDS] [THREADS]\n");
    return 2;
  }
  const auto number = [&](int i, long fallback) {
    return argc > i ? std::atol(argv[i]) : fallback;
  };
  return tenax::checkpoint::run(argv[1], static_cast<std::size_t>(number(2, 2048)),
                                static_cast<int>(number(3, 5)), static_cast<int>(number(4, 2)));
}
