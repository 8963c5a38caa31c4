// Checkpoint figures, every alternative in each round, in an order that turns from round to round;
// medians of the rounds' ratios to the peer measured in the same round:
//   stall    copy of a shard into a sealed slot / plain memcpy of the same bytes
//   write    slot -> files -> committed / one thread of plain O_DIRECT writing + fsync
//   restore  cold read of every tensor, hashes checked / plain sequential O_DIRECT read
//   into another layout: a tensor-parallel rank's half of the columns (needs every chunk), and half
//   of the rows (needs half of them)
//
//   checkpoint_bench DIRECTORY [MIB=2048] [ROUNDS=5] [quick: only what the product uses]
#include <fcntl.h>
#include <fmt/format.h>
#include <rocksdb/file_checksum.h>
#include <rocksdb/sst_file_writer.h>
#include <rocksdb/table.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <thread>
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

double cpu_seconds() {
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto of = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return of(usage.ru_utime) + of(usage.ru_stime);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct FreeDeleter {
  void operator()(std::byte* p) const { std::free(p); }
};
using AlignedMemory = std::unique_ptr<std::byte, FreeDeleter>;

/// In huge pages, with which the disk is fastest: for the peers too.
AlignedMemory aligned(std::size_t bytes) {
  constexpr std::size_t kHugePage = 2 << 20;
  const std::size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  AlignedMemory memory(static_cast<std::byte*>(std::aligned_alloc(kHugePage, rounded)));
  if (::madvise(memory.get(), rounded, MADV_HUGEPAGE) != 0) std::perror("no huge pages");
  return memory;
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

/// One way of doing it, with its seconds (wall and CPU) and the peer's in each round.
struct Series {
  std::string name;
  double share = 1;  ///< of the bytes
  std::vector<double> ours, cpu, peer;

  void measure(const std::function<void()>& work) {
    const double cpu_before = cpu_seconds();
    ours.push_back(seconds(work));
    cpu.push_back(cpu_seconds() - cpu_before);
  }
  void print(double gigabytes) const {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < ours.size(); ++i) ratios.push_back(share * peer[i] / ours[i]);
    std::sort(ratios.begin(), ratios.end());
    fmt::print(
        "{:<44} {:6.2f} GB/s  peer {:6.2f} GB/s  peer's time / ours {:.2f} ({:.2f}-{:.2f})  "
        "{:.2f} CPU s/GB\n",
        name, share * gigabytes / median(ours), gigabytes / median(peer), median(ratios),
        ratios.front(), ratios.back(), median(cpu) / (share * gigabytes));
  }
};

enum class Format { kChunkFiles, kSst };

struct WriteWay {
  Series series;
  Format format = Format::kChunkFiles;
  int threads = 1;
  std::uint64_t chunk_bytes = kChunkBytes;
  FileIo io = FileIo::kDirect;
};

struct ReadWay {
  Series series;
  int threads = 1;
  int layout = 0;  ///< 0: as written, 1: half of the columns, 2: half of the rows
};

std::vector<WriteWay> write_ways(bool quick) {
  std::vector<WriteWay> ways;
  for (const Format format : {Format::kChunkFiles, Format::kSst}) {
    for (const FileIo io : {FileIo::kDirect, FileIo::kBuffered}) {
      for (const int threads : {1, 2}) {
        for (const std::uint64_t mib : {1, 4, 16}) {
          const bool usual = format == Format::kChunkFiles && io == FileIo::kDirect;
          if (mib != 4 && (quick || !usual)) continue;
          if (quick && io == FileIo::kBuffered) continue;
          ways.push_back({{fmt::format("write: {}, {}, {} thread{}, {} MiB",
                                       format == Format::kSst ? "SST files" : "committed",
                                       io == FileIo::kDirect ? "direct" : "buffered", threads,
                                       threads == 1 ? "" : "s", mib),
                           1,
                           {},
                           {},
                           {}},
                          format,
                          threads,
                          mib << 20,
                          io});
        }
      }
    }
  }
  return ways;
}

/// What RocksDB's SstFileWriter makes of the same bytes, synced and not ingested.
void write_sst(const std::string& path, std::span<const std::byte> bytes, const WriteWay& way) {
  rocksdb::BlockBasedTableOptions table;
  table.checksum = rocksdb::kXXH3;
  table.no_block_cache = true;
  rocksdb::Options options;
  options.compression = rocksdb::kNoCompression;
  options.file_checksum_gen_factory = rocksdb::GetFileChecksumGenCrc32cFactory();
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  rocksdb::EnvOptions env(options);
  env.use_direct_writes = way.io == FileIo::kDirect;
  env.writable_file_max_buffer_size = 8 << 20;
  rocksdb::SstFileWriter writer(env, options);
  rocksdb::Status status = writer.Open(path);
  for (std::uint64_t at = 0; status.ok() && at < bytes.size(); at += way.chunk_bytes) {
    const auto chunk =
        bytes.subspan(at, std::min<std::uint64_t>(way.chunk_bytes, bytes.size() - at));
    static_cast<void>(hash128(chunk));
    status = writer.Put(fmt::format("{:012}", at),
                        {reinterpret_cast<const char*>(chunk.data()), chunk.size()});
  }
  if (status.ok()) status = writer.Finish();
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
}

std::vector<ReadWay> read_ways() {
  std::vector<ReadWay> ways;
  const char* layouts[] = {"as written", "half of the columns", "half of the rows"};
  for (const int layout : {0, 1, 2}) {
    for (const int threads : {1, 2, 4}) {
      ways.push_back({{fmt::format("restore, {}: {} thread{}", layouts[layout], threads,
                                   threads == 1 ? "" : "s"),
                       layout == 2 ? 0.5 : 1.0,
                       {},
                       {},
                       {}},
                      threads,
                      layout});
    }
  }
  return ways;
}

std::vector<TensorShard> make_table(std::size_t bytes) {
  std::vector<TensorShard> table;
  for (std::size_t at = 0; at < bytes; at += 64 << 20) {
    const auto rows =
        static_cast<std::int64_t>(std::min<std::size_t>(64 << 20, bytes - at) / 16384);
    const std::vector<std::int64_t> shape = {rows, 4096};
    table.push_back({fmt::format("h.{:03}.weight", at >> 26), kParameter, DType::kFloat32, shape,
                     whole(shape), 0, 0});
  }
  assign_offsets(table, 4096);
  return table;
}

Box box_for(const TensorShard& t, int layout) {
  Box box = t.box;
  if (layout == 1) box.extent[1] /= 2;
  if (layout == 2) box.extent[0] /= 2;
  return box;
}

class Bench {
 public:
  Bench(std::string directory, std::size_t bytes)
      : run_path_(directory + "/checkpoint_bench"),
        plain_path_(directory + "/checkpoint_bench.plain"),
        bytes_(bytes),
        table_(make_table(bytes)),
        source_(aligned(bytes)),
        target_(aligned(bytes)),
        prefix_(slot_prefix("bench", std::to_string(::getpid()), 0)),
        slots_(must(SlotPair::open(prefix_, bytes))) {
    std::mt19937_64 rng(1);
    for (std::size_t i = 0; i < bytes / 8; ++i) {
      const std::uint64_t value = rng();
      std::memcpy(source_.get() + 8 * i, &value, 8);
    }
    std::memset(target_.get(), 1, bytes);
    StoreOptions options;
    options.holder = {"bench", ::getpid(), 1, {}};
    store_ = must(Store::open(run_path_, options));
    id_ = must(store_->highest_checkpoint_id());
  }
  ~Bench() {
    ::unlink(plain_path_.c_str());
    must(unlink_pair(prefix_));
  }

  void stall(Series& series) {
    series.peer.push_back(seconds([&] { std::memcpy(target_.get(), source_.get(), bytes_); }));
    series.measure([&] {
      std::memcpy(slots_.begin(0).data(), source_.get(), bytes_);
      must(slots_.seal(0, {0, 0, 0, 0, bytes_, std::nullopt}));
    });
  }

  double peer_write() {
    return seconds([&] { plain_write(plain_path_, source_.get(), bytes_); });
  }
  double peer_read() {
    return seconds([&] { plain_read(plain_path_, target_.get(), bytes_); });
  }

  Manifest write(WriteWay& way) {
    Manifest manifest;
    if (way.format == Format::kSst) {
      sst_files(way);
      return manifest;
    }
    manifest.checkpoint_id = ++id_;
    way.series.measure([&] {
      ShardWriteRequest request{store_->staging_dir(), id_, "w0", table_, slots_.payload(0), {}};
      request.options.num_threads = way.threads;
      request.options.chunk_bytes = way.chunk_bytes;
      request.options.io = way.io;
      const ShardFiles files = must(write_shard(request));
      must(add_to_manifest(files, manifest));
      must(store_->commit(manifest, files.files, {}));
    });
    return manifest;
  }

  void sst_files(WriteWay& way) {
    const auto path = [&](int i) { return fmt::format("{}.sst{}", plain_path_, i); };
    const std::size_t share = bytes_ / static_cast<std::size_t>(way.threads);
    way.series.measure([&] {
      std::vector<std::jthread> threads;
      for (int i = 0; i < way.threads; ++i) {
        threads.emplace_back([&, i] {
          write_sst(path(i), slots_.payload(0).subspan(static_cast<std::size_t>(i) * share, share),
                    way);
        });
      }
    });
    for (int i = 0; i < way.threads; ++i) ::unlink(path(i).c_str());
  }

  /// Puts the checkpoint's files out of the page cache.
  void drop_cache(const Manifest& manifest) const {
    for (const StoredFile& file : manifest.files) {
      const int fd = ::open((run_path_ + "/chunks/" + file.name).c_str(), O_RDONLY);
      if (fd < 0) continue;
      ::fsync(fd);
      ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
      ::close(fd);
    }
  }

  void read(const Manifest& written, ReadWay& way) {
    drop_cache(written);
    const auto floats = reinterpret_cast<float*>(target_.get());
    const auto reader_store = must(StoreReader::open_read_only(run_path_));
    const CheckpointReader reader(*reader_store, written);
    std::vector<BoxRequest> boxes;
    for (const TensorShard& t : table_) {
      const Box box = box_for(t, way.layout);
      boxes.push_back(
          {t.kind, t.name, box, {floats + t.offset / 4, static_cast<std::size_t>(volume(box))}});
    }
    way.series.measure([&] { must(reader.read_boxes(boxes, way.threads)); });
  }

  void remove(const Manifest& manifest) { must(store_->remove(manifest.checkpoint_id, {})); }

 private:
  std::string run_path_, plain_path_;
  std::size_t bytes_;
  std::vector<TensorShard> table_;
  AlignedMemory source_, target_;
  std::string prefix_;
  SlotPair slots_;
  std::unique_ptr<Store> store_;
  std::uint64_t id_ = 0;
};

int run(const std::string& directory, std::size_t mebibytes, int rounds, bool quick) {
  const double gigabytes = static_cast<double>(mebibytes << 20) / 1e9;
  Bench bench(directory, mebibytes << 20);
  Series stall{"stall: copy into a slot and seal it", 1, {}, {}, {}};
  std::vector<WriteWay> writes = write_ways(quick);
  std::vector<ReadWay> reads = read_ways();
  for (int round = 0; round < rounds; ++round) {
    bench.stall(stall);
    const auto turn = static_cast<std::size_t>(round);
    // The peer before and after: its mean meets the same moments as what is measured between.
    const double before = bench.peer_write();
    Manifest last;
    for (std::size_t i = 0; i < writes.size(); ++i) {
      WriteWay& way = writes[(i + turn) % writes.size()];
      const Manifest manifest = bench.write(way);
      if (manifest.checkpoint_id == 0) continue;
      if (last.checkpoint_id != 0) bench.remove(last);
      last = manifest;
    }
    const double after = bench.peer_write();
    for (WriteWay& way : writes) way.series.peer.push_back((before + after) / 2);

    const double read_before = bench.peer_read();
    for (std::size_t i = 0; i < reads.size(); ++i) {
      bench.read(last, reads[(i + turn) % reads.size()]);
    }
    const double read_after = bench.peer_read();
    for (ReadWay& way : reads) way.series.peer.push_back((read_before + read_after) / 2);
    bench.remove(last);
  }
  fmt::print("{} MiB, {} rounds, {}\n", mebibytes, rounds, directory);
  stall.print(gigabytes);
  for (const WriteWay& way : writes) way.series.print(gigabytes);
  for (const ReadWay& way : reads) way.series.print(gigabytes);
  return 0;
}

}  // namespace
}  // namespace tenax::checkpoint

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: checkpoint_bench DIRECTORY [MIB] [ROUNDS] [quick]\n");
    return 2;
  }
  const auto number = [&](int i, long fallback) {
    return argc > i ? std::atol(argv[i]) : fallback;
  };
  return tenax::checkpoint::run(argv[1], static_cast<std::size_t>(number(2, 2048)),
                                static_cast<int>(number(3, 5)),
                                argc > 4 && std::string_view(argv[4]) == "quick");
}
