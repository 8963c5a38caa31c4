// docs/checkpoint-format.md is enough to read a checkpoint: tests/reference/read_checkpoint.py,
// which shares no code with this program, finds the same hashes.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <string>

#include "checkpoint/reader.h"
#include "checkpoint/tensor_hash.h"
#include "tests/unit/checkpoint/model_on_disk.h"

namespace tenax::checkpoint {
namespace {

constexpr const char* kReader =
    "/usr/bin/python3 " TENAX_SOURCE_DIR "/tests/reference/read_checkpoint.py ";

struct Ran {
  int status = -1;
  std::string output;
};

Ran run(const std::string& command) {
  Ran ran;
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return ran;
  std::array<char, 4096> buffer;
  std::size_t n = 0;
  while ((n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0) {
    ran.output.append(buffer.data(), n);
  }
  ran.status = ::pclose(pipe);
  return ran;
}

bool available() {
  return run("ldb --version && zstd --version && /usr/bin/python3 -c \"import ctypes, numpy; "
             "ctypes.CDLL('libxxhash.so.0')\"")
             .status == 0;
}

TEST(ReferenceReader, FindsTheSameHashesInEveryLayoutAndWithCompression) {
  if (!available()) GTEST_SKIP() << "needs python3-numpy, ldb (rocksdb-tools) and zstd";
  const TempDir dir;
  const std::string run_path = dir / "run";
  std::array<std::string, 3> expected;
  {
    auto store = Store::open(run_path, store_options());
    ASSERT_OK(store);
    for (std::uint64_t id = 1; id <= 2; ++id) {
      SaveOptions options;
      options.seed = id;
      options.num_writers = static_cast<int>(id) + 1;
      if (id == 2) options.write.compression = Compression::kZstd;
      Model model = random_model(id);
      for (float& v : model.back().values) v = 0;
      for (float& v : model[5].values) v = 0;  // something to compress
      const auto manifest = save(**store, id, model, options);
      ASSERT_OK(manifest);
      const auto hash = hash_checkpoint(CheckpointReader(**store, *manifest));
      ASSERT_OK(hash);
      expected[id] = "weights " + hash->hex();
    }
  }
  for (std::uint64_t id = 1; id <= 2; ++id) {
    const Ran ran = run(kReader + run_path + " " + std::to_string(id));
    EXPECT_EQ(ran.status, 0) << ran.output;
    EXPECT_NE(ran.output.find(expected[id]), std::string::npos) << ran.output << expected[id];
  }
}

TEST(ReferenceReader, NoticesAFlippedBit) {
  if (!available()) GTEST_SKIP() << "needs python3-numpy, ldb (rocksdb-tools) and zstd";
  const TempDir dir;
  const std::string run_path = dir / "run";
  std::string name;
  {
    auto store = Store::open(run_path, store_options());
    ASSERT_OK(store);
    const auto manifest = save(**store, 1, random_model(1));
    ASSERT_OK(manifest);
    name = manifest->files.front().name;
  }
  {
    std::fstream file(run_path + "/chunks/" + name,
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(4096);
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(4096);
    file.put(byte);
  }
  const Ran ran = run(kReader + run_path);
  EXPECT_NE(ran.status, 0);
  EXPECT_NE(ran.output.find("another hash than the manifest"), std::string::npos) << ran.output;
}

}  // namespace
}  // namespace tenax::checkpoint
