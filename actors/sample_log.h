// The losses of the newest samples, one by one, with their positions in the run's order: which text
// was behind a spike. Each rank that computes losses notes its own in a ring in the run's directory
// (RUN/samples/rank0.ring), mapped into memory: noting a step costs a copy, and what was noted
// survives the process. At a rollback the steps of the spike are copied to a file that stays
// (RUN/spikes/branch0-step30.json).
//
// A ring: 32 bytes of header (magic "TENAXSMP", capacity, number of entries ever written, 0), then
// `capacity` entries of 32 bytes (branch, step, position, loss as a double), little-endian.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/result.h"

namespace tenax::actors {

struct SampleLoss {
  std::uint64_t branch = 0;
  std::int64_t step = 0;
  std::int64_t position = 0;  ///< absolute, in the run's order of samples
  double loss = 0;            ///< mean over the sample's targets, nats; may be non-finite
  bool operator==(const SampleLoss&) const = default;
};

/// One writer a file; confined to its thread.
class SampleLog {
 public:
  static constexpr std::uint64_t kCapacity = 1 << 15;

  /// Goes on with an existing ring; makes an empty one where there is none or another capacity.
  static Result<std::unique_ptr<SampleLog>> open(const std::filesystem::path& path,
                                                 std::uint64_t capacity = kCapacity);
  ~SampleLog();
  SampleLog(const SampleLog&) = delete;
  SampleLog& operator=(const SampleLog&) = delete;

  /// Overwrites the oldest entry once the ring is full.
  void add(const SampleLoss& sample);

 private:
  SampleLog(std::byte* data, std::size_t bytes) : data_(data), bytes_(bytes) {}
  std::byte* data_;
  std::size_t bytes_;
};

/// What a ring holds, oldest first. kNotFound, kDataLoss or kIo.
Result<std::vector<SampleLoss>> read_sample_log(const std::filesystem::path& path);

/// Copies steps [first_step, last_step] of `branch` from all rings of `rings` to `out`, by step and
/// position, each once: {"branch", "first_step", "last_step", "samples": [[step, position, loss]]}.
Status keep_samples(const std::filesystem::path& rings, std::uint64_t branch,
                    std::int64_t first_step, std::int64_t last_step,
                    const std::filesystem::path& out);
/// Reads such a file.
Result<std::vector<SampleLoss>> read_kept_samples(const std::filesystem::path& path);

}  // namespace tenax::actors
