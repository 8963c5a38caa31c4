// A small model with random contents, cut into random boxes and saved as a checkpoint: what most
// tests of this room need.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/reader.h"
#include "checkpoint/shard_writer.h"
#include "checkpoint/store.h"

namespace tenax::checkpoint {

/// A directory that goes with the test.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  std::string path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

struct LogicalTensor {
  std::string kind;
  std::string name;
  std::vector<std::int64_t> shape;
  std::vector<float> values;  // row-major
};

using Model = std::vector<LogicalTensor>;

/// Two layers of weights and their optimizer state; different values for every seed, special values
/// (NaN, -0) included.
Model random_model(std::uint64_t seed);

/// What one writer holds: its table and the flat payload.
struct WriterPart {
  std::string writer;
  std::vector<TensorShard> table;
  std::vector<std::byte> payload;
};

/// Cuts every tensor into random disjoint boxes and gives each to a random writer.
std::vector<WriterPart> random_layout(const Model& model, int num_writers, std::mt19937_64& rng);

/// The values of `box`, picked one by one: the reference for everything that moves boxes.
std::vector<float> pick(const LogicalTensor& tensor, const Box& box);
Box random_box(const std::vector<std::int64_t>& shape, std::mt19937_64& rng);

/// Several chunks a tensor and several files a writer although the model is small.
ShardWriteOptions small_files();

struct SaveOptions {
  std::uint64_t branch = 0;
  std::int64_t step = 0;
  std::uint64_t seed = 1;  ///< of the layout
  int num_writers = 3;
  std::uint64_t journal_seq = 0;  ///< of the commit's record; 0: none
  ShardWriteOptions write = small_files();
};

/// Writes and commits `model` as checkpoint `id`.
Result<Manifest> save(Store& store, std::uint64_t id, const Model& model,
                      const SaveOptions& options = {});

/// Writes the shards and fills a manifest, without committing.
struct Prepared {
  Manifest manifest;
  std::vector<ShardFile> files;
};
Result<Prepared> prepare(const std::string& staging_dir, std::uint64_t id, const Model& model,
                         const SaveOptions& options = {});

/// Ok if every tensor reads back bit for bit.
Status compare(const ChunkSource& source, const Manifest& manifest, const Model& model);

StoreOptions store_options();

/// EXPECT with the error's message.
#define EXPECT_OK(expression)                                  \
  do {                                                         \
    const auto& tenax_result = (expression);                   \
    EXPECT_TRUE(tenax_result) << tenax_result.error().message; \
  } while (false)
#define ASSERT_OK(expression)                                  \
  do {                                                         \
    const auto& tenax_result = (expression);                   \
    ASSERT_TRUE(tenax_result) << tenax_result.error().message; \
  } while (false)

}  // namespace tenax::checkpoint
