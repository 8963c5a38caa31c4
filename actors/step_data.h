// The samples of a step as microbatches: from (step, skip windows) over positions and windows to
// tokens. The same for every layout; each replica asks only for its own microbatches. Confined to
// the engine's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "common/result.h"
#include "common/run_types.h"
#include "compute/engine.h"
#include "configs/run_config.h"
#include "data/position_map.h"
#include "data/token_file.h"

namespace tenax::actors {

class StepData {
 public:
  /// Opens the run's token files and checks that they fit the configuration.
  static Result<std::unique_ptr<StepData>> open(const configs::RunConfig& config,
                                                const std::filesystem::path& train,
                                                const std::filesystem::path& heldout);

  /// From now on steps avoid these windows.
  void set_skip_windows(const std::vector<SkipWindow>& windows);

  /// Global microbatches [first, end) of `step`; valid until the next call. A sample with tokens
  /// outside the vocabulary (a token file that was damaged after it was written) is marked, so that
  /// its loss is NaN.
  std::span<compute::Microbatch> microbatches(std::int64_t step, int first, int end);
  /// Held-out microbatches [first, end) of the fixed evaluation set; valid until the next call.
  std::span<const compute::Microbatch> heldout(int first, int end);
  int num_heldout_microbatches() const { return num_heldout_; }

  /// Where in the order the samples of `step` lie, and the tokens of one as they are trained.
  std::vector<std::int64_t> positions(std::int64_t step) const {
    return positions_->positions(step);
  }
  std::vector<std::int32_t> sample_tokens(std::int64_t position) const;
  /// The token of the training file at which the sample begins.
  std::int64_t sample_begin(std::int64_t position) const;

  std::int64_t position_begin(std::int64_t step) const { return positions_->begin(step); }
  std::int64_t position_end(std::int64_t step) const { return positions_->end(step); }
  std::int64_t vocabulary_size() const { return train_.info().vocabulary_size; }

 private:
  StepData(const configs::RunConfig& config, data::TokenFile train, data::TokenFile heldout);
  void reserve(int count);
  /// Makes `window_` harmless and returns true if a token of it is outside the vocabulary.
  bool damaged_window(const data::TokenFile& file, std::int64_t window);
  void read_window(const data::TokenFile& file, std::int64_t window, int microbatch, int sample,
                   std::int64_t poison_position);

  std::uint64_t seed_;
  std::int64_t global_batch_size_;
  int microbatch_size_;
  int sequence_length_;
  data::PoisonPlan poison_;
  data::TokenFile train_;
  data::TokenFile heldout_;
  std::unique_ptr<data::PositionMap> positions_;
  std::int64_t num_windows_ = 0;
  std::int64_t num_heldout_windows_ = 0;
  int num_heldout_ = 0;
  std::set<std::int64_t> damaged_windows_;  ///< those told of
  std::vector<std::int32_t> tokens_;
  std::vector<std::int32_t> targets_;
  std::vector<std::int32_t> window_;
  std::vector<compute::Microbatch> batches_;
};

}  // namespace tenax::actors
