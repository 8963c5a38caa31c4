#include "tools/eval_command.h"

#include <fmt/format.h>
#include <fmt/ostream.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <span>

#include "actors/run_directory.h"
#include "actors/step_data.h"
#include "checkpoint/store_reader.h"
#include "configs/run_config.h"
#include "data/corpus.h"
#include "data/packing.h"
#include "scheduler/exit_code.h"
#include "tools/checkpoint_weights.h"
#include "tools/prepare_data.h"
#include "tools/run_checkpoints.h"

namespace tenax::tools {

namespace {

/// Sums the losses of microbatches in their order, as the run does.
class LossOverText {
 public:
  explicit LossOverText(compute::Stage& stage) : stage_(stage) {}

  void add(const compute::StageBatch& batch) {
    const compute::LossSum loss = stage_.evaluate(batch, {}, {});
    sum_ += loss.sum;
    targets_ += static_cast<double>(loss.targets);
  }
  EvalResult result(std::int64_t step) const {
    return {step, static_cast<std::int64_t>(targets_), sum_ / targets_};
  }

 private:
  compute::Stage& stage_;
  double sum_ = 0;
  double targets_ = 0;
};

Result<EvalResult> over_heldout(const configs::RunConfig& config,
                                const actors::RunDirectory& directory, std::int64_t step,
                                compute::Stage& stage) {
  TENAX_TRY(const auto data,
            actors::StepData::open(config, directory.corpora(config.data.num_corpora())));
  const int count = data->num_heldout_microbatches();
  if (count == 0) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("{}: the held-out text is shorter than one sequence of {} tokens",
                                  directory.path().string(), config.train.sequence_length));
  }
  LossOverText loss(stage);
  for (const compute::Microbatch& batch : data->heldout(0, count)) {
    loss.add({batch.tokens, batch.targets, batch.positions});
  }
  return loss.result(step);
}

/// The documents, each ended by the end-of-document token, with one such token in front.
Result<std::vector<std::int32_t>> encode_documents(const std::vector<std::string>& patterns,
                                                   const data::Tokenizer& tokenizer) {
  TENAX_TRY(const data::DocumentList documents,
            data::collect_documents(std::filesystem::current_path(), patterns));
  std::vector<std::int32_t> tokens{tokenizer.end_of_document()};
  for (const std::filesystem::path& file : documents.files) {
    TENAX_TRY(const std::string text, actors::read_file(file));
    const std::vector<std::int32_t> more = tokenizer.encode(text);
    tokens.insert(tokens.end(), more.begin(), more.end());
    tokens.push_back(tokenizer.end_of_document());
  }
  return tokens;
}

/// `text` begins with the end-of-document token.
EvalResult over_tokens(std::span<const std::int32_t> text, data::Packing packing,
                       const compute::BatchShape& shape, std::int64_t step, compute::Stage& stage) {
  const std::size_t window = static_cast<std::size_t>(shape.microbatch_size) *
                             static_cast<std::size_t>(shape.sequence_length);
  std::vector<std::int32_t> tokens(window);
  std::vector<std::int32_t> targets(window);
  std::vector<std::int32_t> positions(packing == data::Packing::kDocuments ? window : 0);
  LossOverText loss(stage);
  for (std::size_t begin = 0; begin + 1 < text.size(); begin += window) {
    const std::size_t n = std::min(window, text.size() - 1 - begin);
    std::fill(tokens.begin(), tokens.end(), 0);
    std::fill(targets.begin(), targets.end(), -1);
    std::copy_n(text.begin() + static_cast<std::ptrdiff_t>(begin), n, tokens.begin());
    std::copy_n(text.begin() + static_cast<std::ptrdiff_t>(begin) + 1, n, targets.begin());
    const auto length = static_cast<std::size_t>(shape.sequence_length);
    for (std::size_t at = 0; at < positions.size(); at += length)
      data::document_positions(std::span(tokens).subspan(at, length), text.front(),
                               std::span(positions).subspan(at, length));
    loss.add({tokens, targets, positions});
  }
  return loss.result(step);
}

int exit_code_of(const Error& error) {
  switch (error.code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kUnsupported:
      return scheduler::kExitConfig;
    default:
      return scheduler::kExitStore;
  }
}

}  // namespace

Result<EvalResult> evaluate_checkpoint(const EvalArguments& arguments) {
  const actors::RunDirectory directory(arguments.run_dir);
  TENAX_TRY(const actors::RunIdentity identity, directory.identity());
  TENAX_TRY(const configs::RunConfig config, configs::load_run_config(directory.config(), {}));
  TENAX_TRY(const auto tokenizer, open_tokenizer(config, directory));
  std::vector<std::int32_t> text;
  if (!arguments.text.empty()) {
    TENAX_TRY(text, encode_documents(arguments.text, *tokenizer));
  }
  TENAX_TRY(const auto store, checkpoint::StoreReader::open_read_only(directory.path().string()));
  TENAX_TRY(const checkpoint::Manifest manifest, find_checkpoint(*store, arguments.step));
  const compute::BatchShape shape{static_cast<int>(config.train.microbatch_size),
                                  static_cast<int>(config.train.sequence_length)};
  TENAX_TRY(const auto stage,
            load_whole_model(*store, manifest,
                             configs::model_options(config, tokenizer->vocabulary_size()), shape,
                             config.train.precision));
  if (!arguments.text.empty())
    return over_tokens(text, config.data.packing, shape, manifest.step, *stage);
  return over_heldout(config, directory, manifest.step, *stage);
}

int run_eval(const EvalArguments& arguments, std::ostream& out, std::ostream& errors) {
  const auto result = evaluate_checkpoint(arguments);
  if (!result) {
    fmt::print(errors, "tenax: {}\n", result.error().message);
    return exit_code_of(result.error());
  }
  if (arguments.json) {
    const nlohmann::json j = {
        {"step", result->step}, {"loss", result->loss}, {"targets", result->targets}};
    fmt::print(out, "{}\n", j.dump());
  } else {
    fmt::print(out, "step {}: {} {:.4f} nats a token over {} tokens (perplexity {:.2f})\n",
               result->step, arguments.text.empty() ? "held-out loss" : "loss", result->loss,
               result->targets, std::exp(result->loss));
  }
  return scheduler::kExitDone;
}

}  // namespace tenax::tools
