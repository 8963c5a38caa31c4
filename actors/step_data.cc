#include "actors/step_data.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "data/sampler.h"

namespace tenax::actors {

Result<std::unique_ptr<StepData>> StepData::open(const configs::RunConfig& config,
                                                 const std::filesystem::path& train,
                                                 const std::filesystem::path& heldout) {
  TENAX_TRY(data::TokenFile train_file, data::TokenFile::open(train));
  TENAX_TRY(data::TokenFile heldout_file, data::TokenFile::open(heldout));
  std::unique_ptr<StepData> data(
      new StepData(config, std::move(train_file), std::move(heldout_file)));
  if (data->num_windows_ < 1) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("the training text has {} tokens, fewer than one sequence of {}",
                                  data->train_.num_tokens(), config.train.sequence_length));
  }
  return data;
}

StepData::StepData(const configs::RunConfig& config, data::TokenFile train, data::TokenFile heldout)
    : seed_(static_cast<std::uint64_t>(config.run.seed)),
      global_batch_size_(config.train.global_batch_size),
      microbatch_size_(static_cast<int>(config.train.microbatch_size)),
      sequence_length_(static_cast<int>(config.train.sequence_length)),
      train_(std::move(train)),
      heldout_(std::move(heldout)) {
  num_windows_ = data::count_windows(train_.num_tokens(), sequence_length_);
  num_heldout_windows_ = data::count_windows(heldout_.num_tokens(), sequence_length_);
  const std::int64_t samples = std::min(config.train.eval_samples, num_heldout_windows_);
  num_heldout_ = static_cast<int>((samples + microbatch_size_ - 1) / microbatch_size_);
  if (config.faults.poison_batch > 0) {
    // The poison sticks to the samples that an undisturbed run trains at that step.
    const data::PositionMap undisturbed(global_batch_size_, {});
    poison_.begin = undisturbed.begin(config.faults.poison_batch);
    poison_.end =
        undisturbed.end(config.faults.poison_batch + config.faults.poison_num_batches - 1);
    poison_.kind = config.faults.poison_kind;
  }
  set_skip_windows({});
}

void StepData::set_skip_windows(const std::vector<SkipWindow>& windows) {
  positions_ = std::make_unique<data::PositionMap>(global_batch_size_, windows);
}

void StepData::reserve(int count) {
  const std::size_t size = static_cast<std::size_t>(count) * microbatch_size_ * sequence_length_;
  if (tokens_.size() < size) {
    tokens_.resize(size);
    targets_.resize(size);
  }
  window_.resize(static_cast<std::size_t>(sequence_length_) + 1);
  batches_.assign(static_cast<std::size_t>(count), {});
  const std::size_t per_batch = static_cast<std::size_t>(microbatch_size_) * sequence_length_;
  for (std::size_t i = 0; i < batches_.size(); ++i) {
    batches_[i].tokens = std::span(tokens_).subspan(i * per_batch, per_batch);
    batches_[i].targets = std::span(targets_).subspan(i * per_batch, per_batch);
  }
}

bool StepData::damaged_window(const data::TokenFile& file, std::int64_t window) {
  const auto vocabulary = file.info().vocabulary_size;
  const auto bad = std::find_if(window_.begin(), window_.end(), [&](std::int32_t token) {
    return token < 0 || token >= vocabulary;
  });
  if (bad == window_.end()) return false;
  if (damaged_windows_.insert(window).second) {
    spdlog::error(
        "token file: token {} has the value {}, outside the vocabulary of {}: the file was damaged "
        "after it was written; samples that read it have no loss",
        window * sequence_length_ + (bad - window_.begin()), *bad, vocabulary);
  }
  std::fill(window_.begin(), window_.end(), 0);
  return true;
}

void StepData::read_window(const data::TokenFile& file, std::int64_t window, int microbatch,
                           int sample, std::int64_t poison_position) {
  file.read(window * sequence_length_, window_);
  if (damaged_window(file, window))
    batches_[static_cast<std::size_t>(microbatch)].poison_nan = true;
  if (poison_position >= 0) {
    data::poison_tokens(poison_, {seed_, poison_position, file.info().vocabulary_size}, window_);
    if (poison_.kind == data::PoisonKind::kNan && poison_.contains(poison_position)) {
      batches_[static_cast<std::size_t>(microbatch)].poison_nan = true;
    }
  }
  const auto at =
      static_cast<std::ptrdiff_t>(microbatch * microbatch_size_ + sample) * sequence_length_;
  std::copy(window_.begin(), window_.end() - 1, tokens_.begin() + at);
  std::copy(window_.begin() + 1, window_.end(), targets_.begin() + at);
}

std::span<compute::Microbatch> StepData::microbatches(std::int64_t step, int first, int end) {
  reserve(end - first);
  const std::vector<std::int64_t> positions = positions_->positions(step);
  for (int mb = first; mb < end; ++mb) {
    for (int s = 0; s < microbatch_size_; ++s) {
      const std::int64_t position = positions[static_cast<std::size_t>(mb * microbatch_size_ + s)];
      read_window(train_, data::sample_window(seed_, position, num_windows_), mb - first, s,
                  position);
    }
  }
  return batches_;
}

std::int64_t StepData::sample_begin(std::int64_t position) const {
  return data::sample_window(seed_, position, num_windows_) * sequence_length_;
}

std::vector<std::int32_t> StepData::sample_tokens(std::int64_t position) const {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(sequence_length_) + 1);
  train_.read(sample_begin(position), tokens);
  data::poison_tokens(poison_, {seed_, position, train_.info().vocabulary_size}, tokens);
  return tokens;
}

std::span<const compute::Microbatch> StepData::heldout(int first, int end) {
  reserve(end - first);
  const std::int64_t samples = static_cast<std::int64_t>(num_heldout_) * microbatch_size_;
  for (int mb = first; mb < end; ++mb) {
    for (int s = 0; s < microbatch_size_; ++s) {
      // Evenly spread over the held-out text; the last microbatch may repeat a window.
      const std::int64_t i = static_cast<std::int64_t>(mb) * microbatch_size_ + s;
      read_window(heldout_, i * num_heldout_windows_ / samples, mb - first, s, -1);
    }
  }
  return batches_;
}

}  // namespace tenax::actors
