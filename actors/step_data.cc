#include "actors/step_data.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "common/hash.h"
#include "data/batch_ramp.h"
#include "data/sampler.h"

namespace tenax::actors {

namespace {

std::vector<double> blend_weights(const configs::RunConfig& config) {
  std::vector<double> weights;
  for (const std::string& text : config.data.blend) {
    // The configuration was checked; a part that is not one would be a corpus without weight.
    const auto part = data::parse_blend_part(text);
    weights.push_back(part ? part->weight : 1);
  }
  if (weights.empty()) weights.push_back(1);
  return weights;
}

std::vector<data::BatchSizeChange> ramp_of(const configs::RunConfig& config) {
  // The configuration was checked.
  if (auto ramp = data::batch_ramp(config.train.batch_ramp, config.train.global_batch_size))
    return *std::move(ramp);
  return {{1, config.train.global_batch_size}};
}

}  // namespace

Result<std::unique_ptr<StepData>> StepData::open(const configs::RunConfig& config,
                                                 const std::vector<data::TokenizePaths>& corpora) {
  std::vector<Corpus> opened;
  for (const data::TokenizePaths& paths : corpora) {
    TENAX_TRY(data::TokenFile train, data::TokenFile::open(paths.train));
    TENAX_TRY(data::TokenFile heldout, data::TokenFile::open(paths.heldout));
    Corpus corpus{std::move(train), std::move(heldout)};
    const int length = static_cast<int>(config.train.sequence_length);
    corpus.num_windows = data::count_windows(corpus.train.num_tokens(), length);
    corpus.num_heldout_windows = data::count_windows(corpus.heldout.num_tokens(), length);
    if (corpus.num_windows < 1) {
      const std::string which =
          config.data.blend.empty()
              ? "the training text"
              : fmt::format("the training text of \"{}\"", config.data.blend[opened.size()]);
      return make_error(ErrorCode::kInvalidArgument,
                        fmt::format("{} has {} tokens, fewer than one sequence of {}", which,
                                    corpus.train.num_tokens(), config.train.sequence_length));
    }
    opened.push_back(std::move(corpus));
  }
  return std::unique_ptr<StepData>(new StepData(config, std::move(opened)));
}

StepData::StepData(const configs::RunConfig& config, std::vector<Corpus> corpora)
    : seed_(static_cast<std::uint64_t>(config.run.seed)),
      ramp_(ramp_of(config)),
      microbatch_size_(static_cast<int>(config.train.microbatch_size)),
      sequence_length_(static_cast<int>(config.train.sequence_length)),
      packing_(config.data.packing),
      corpora_(std::move(corpora)),
      blend_(seed_, blend_weights(config)) {
  choose_heldout(config.train.eval_samples);
  if (config.faults.poison_batch > 0) {
    // The poison sticks to the samples that an undisturbed run trains at that step.
    const data::PositionMap undisturbed(ramp_, {});
    poison_.begin = undisturbed.begin(config.faults.poison_batch);
    poison_.end =
        undisturbed.end(config.faults.poison_batch + config.faults.poison_num_batches - 1);
    poison_.kind = config.faults.poison_kind;
  }
  set_skip_windows({});
}

void StepData::choose_heldout(std::int64_t most_samples) {
  std::int64_t available = 0;
  std::size_t fallback = 0;  // where a corpus has no held-out sequence
  for (std::size_t c = corpora_.size(); c-- > 0;) {
    available += corpora_[c].num_heldout_windows;
    if (corpora_[c].num_heldout_windows > 0) fallback = c;
  }
  const std::int64_t samples = std::min(most_samples, available);
  num_heldout_ = static_cast<int>((samples + microbatch_size_ - 1) / microbatch_size_);
  std::vector<std::int64_t> counts(corpora_.size());
  for (std::int64_t i = 0; i < std::int64_t{num_heldout_} * microbatch_size_; ++i) {
    std::size_t corpus = blend_.at(i).corpus;
    if (corpora_[corpus].num_heldout_windows == 0) corpus = fallback;
    heldout_windows_.push_back({corpus, counts[corpus]++});
  }
  // Evenly spread over each corpus' text; of a short one some windows come more than once.
  for (Window& w : heldout_windows_)
    w.index = w.index * corpora_[w.corpus].num_heldout_windows / counts[w.corpus];
}

StepData::Window StepData::train_window(std::int64_t position) const {
  const data::BlendSample sample = blend_.at(position);
  // Each corpus has an order of its own; that of the first is the order of a run without a blend.
  const std::uint64_t seed =
      sample.corpus == 0 ? seed_ : seed_ ^ hash64(fmt::format("corpus {}", sample.corpus));
  return {sample.corpus,
          data::sample_window(seed, sample.index, corpora_[sample.corpus].num_windows)};
}

void StepData::set_skip_windows(const std::vector<SkipWindow>& windows) {
  positions_ = std::make_unique<data::PositionMap>(ramp_, windows);
}

void StepData::reserve(int count) {
  const std::size_t size = static_cast<std::size_t>(count) * microbatch_size_ * sequence_length_;
  if (tokens_.size() < size) {
    tokens_.resize(size);
    targets_.resize(size);
    if (packing_ == data::Packing::kDocuments) document_positions_.resize(size);
  }
  samples_.resize(static_cast<std::size_t>(count) * static_cast<std::size_t>(microbatch_size_));
  window_.resize(static_cast<std::size_t>(sequence_length_) + 1);
  batches_.assign(static_cast<std::size_t>(count), {});
  const std::size_t per_batch = static_cast<std::size_t>(microbatch_size_) * sequence_length_;
  for (std::size_t i = 0; i < batches_.size(); ++i) {
    batches_[i].tokens = std::span(tokens_).subspan(i * per_batch, per_batch);
    batches_[i].targets = std::span(targets_).subspan(i * per_batch, per_batch);
    batches_[i].samples = std::span(samples_).subspan(
        i * static_cast<std::size_t>(microbatch_size_), static_cast<std::size_t>(microbatch_size_));
    if (packing_ == data::Packing::kDocuments)
      batches_[i].positions = std::span(document_positions_).subspan(i * per_batch, per_batch);
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
                           int sample, std::int64_t sample_position) {
  file.read(window * sequence_length_, window_);
  samples_[static_cast<std::size_t>(microbatch * microbatch_size_ + sample)] = sample_position;
  if (damaged_window(file, window))
    batches_[static_cast<std::size_t>(microbatch)].poison_nan = true;
  if (sample_position >= 0) {
    data::poison_tokens(poison_, {seed_, sample_position, file.info().vocabulary_size}, window_);
    if (poison_.kind == data::PoisonKind::kNan && poison_.contains(sample_position)) {
      batches_[static_cast<std::size_t>(microbatch)].poison_nan = true;
    }
  }
  const auto at =
      static_cast<std::ptrdiff_t>(microbatch * microbatch_size_ + sample) * sequence_length_;
  std::copy(window_.begin(), window_.end() - 1, tokens_.begin() + at);
  std::copy(window_.begin() + 1, window_.end(), targets_.begin() + at);
  if (packing_ == data::Packing::kDocuments) {
    const auto length = static_cast<std::size_t>(sequence_length_);
    data::document_positions(
        std::span(window_).first(length), corpora_.front().train.end_of_document(),
        std::span(document_positions_).subspan(static_cast<std::size_t>(at), length));
  }
}

std::span<compute::Microbatch> StepData::microbatches(std::int64_t step, int first, int end) {
  reserve(end - first);
  const std::vector<std::int64_t> positions = positions_->positions(step);
  for (int mb = first; mb < end; ++mb) {
    for (int s = 0; s < microbatch_size_; ++s) {
      const std::int64_t position = positions[static_cast<std::size_t>(mb * microbatch_size_ + s)];
      const Window w = train_window(position);
      read_window(corpora_[w.corpus].train, w.index, mb - first, s, position);
    }
  }
  return batches_;
}

std::int64_t StepData::sample_begin(std::int64_t position) const {
  return train_window(position).index * sequence_length_;
}

std::vector<std::int32_t> StepData::sample_tokens(std::int64_t position) const {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(sequence_length_) + 1);
  const Window w = train_window(position);
  const data::TokenFile& file = corpora_[w.corpus].train;
  file.read(w.index * sequence_length_, tokens);
  data::poison_tokens(poison_, {seed_, position, file.info().vocabulary_size}, tokens);
  return tokens;
}

std::span<const compute::Microbatch> StepData::heldout(int first, int end) {
  reserve(end - first);
  for (int mb = first; mb < end; ++mb) {
    for (int s = 0; s < microbatch_size_; ++s) {
      const Window w = heldout_windows_[static_cast<std::size_t>(mb * microbatch_size_ + s)];
      read_window(corpora_[w.corpus].heldout, w.index, mb - first, s, -1);
    }
  }
  return batches_;
}

}  // namespace tenax::actors
