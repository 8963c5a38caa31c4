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
#include "data/blend.h"
#include "data/packing.h"
#include "data/position_map.h"
#include "data/token_file.h"
#include "data/tokenize.h"

namespace tenax::actors {

class StepData {
 public:
  /// Opens the token files of the run's corpora and checks that they fit the configuration.
  static Result<std::unique_ptr<StepData>> open(const configs::RunConfig& config,
                                                const std::vector<data::TokenizePaths>& corpora);

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

  /// Of the global batch of `step`.
  int num_microbatches(std::int64_t step) const {
    return static_cast<int>(positions_->batch_size(step) / microbatch_size_);
  }
  std::int64_t position_begin(std::int64_t step) const { return positions_->begin(step); }
  std::int64_t position_end(std::int64_t step) const { return positions_->end(step); }
  std::int64_t vocabulary_size() const { return corpora_.front().train.info().vocabulary_size; }

 private:
  struct Corpus {
    data::TokenFile train;
    data::TokenFile heldout;
    std::int64_t num_windows = 0;
    std::int64_t num_heldout_windows = 0;
  };
  struct Window {
    std::size_t corpus = 0;
    std::int64_t index = 0;
  };

  StepData(const configs::RunConfig& config, std::vector<Corpus> corpora);
  void choose_heldout(std::int64_t most_samples);
  Window train_window(std::int64_t position) const;
  void reserve(int count);
  /// Makes `window_` harmless and returns true if a token of it is outside the vocabulary.
  bool damaged_window(const data::TokenFile& file, std::int64_t window);
  void read_window(const data::TokenFile& file, std::int64_t window, int microbatch, int sample,
                   std::int64_t sample_position);

  std::uint64_t seed_;
  std::vector<data::BatchSizeChange> ramp_;
  int microbatch_size_;
  int sequence_length_;
  data::Packing packing_;
  data::PoisonPlan poison_;
  std::vector<Corpus> corpora_;
  data::Blend blend_;
  std::unique_ptr<data::PositionMap> positions_;
  std::vector<Window> heldout_windows_;  ///< of the evaluation set, whole microbatches
  int num_heldout_ = 0;
  std::set<std::int64_t> damaged_windows_;  ///< those told of
  std::vector<std::int32_t> tokens_;
  std::vector<std::int32_t> targets_;
  std::vector<std::int32_t> document_positions_;  ///< empty without packing by documents
  std::vector<std::int64_t> samples_;
  std::vector<std::int32_t> window_;
  std::vector<compute::Microbatch> batches_;
};

}  // namespace tenax::actors
