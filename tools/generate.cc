#include "tools/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "checkpoint/store_reader.h"
#include "common/counter_rng.h"
#include "compute/stage.h"
#include "data/token_file.h"
#include "tools/checkpoint_weights.h"
#include "tools/prepare_data.h"
#include "tools/run_checkpoints.h"

namespace tenax::tools {

namespace {

std::int32_t sample(std::span<const float> logits, double temperature, const CounterRng& rng,
                    std::uint64_t index) {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (temperature <= 0) return static_cast<std::int32_t>(best - logits.begin());
  std::vector<double> weights;
  double total = 0;
  for (const float l : logits) {
    weights.push_back(std::exp((static_cast<double>(l) - *best) / temperature));
    total += weights.back();
  }
  double left = static_cast<double>(rng.uniform(index)) * total;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    left -= weights[i];
    if (left < 0) return static_cast<std::int32_t>(i);
  }
  return static_cast<std::int32_t>(weights.size() - 1);
}

}  // namespace

Result<std::string> generate_text(const actors::RunDirectory& directory,
                                  const configs::RunConfig& config,
                                  const GenerateOptions& options) {
  TENAX_TRY(const auto store, checkpoint::StoreReader::open_read_only(directory.path().string()));
  TENAX_TRY(const checkpoint::Manifest manifest, find_checkpoint(*store, options.step));
  TENAX_TRY(const auto tokenizer, open_tokenizer(config, directory));
  const compute::ModelOptions model = configs::model_options(config, tokenizer->vocabulary_size());
  const auto length = static_cast<int>(config.train.sequence_length);
  TENAX_TRY(const auto stage,
            load_whole_model(*store, manifest, model, {1, length}, config.train.precision));

  std::vector<std::int32_t> tokens{tokenizer->end_of_document()};
  for (const std::int32_t t : tokenizer->encode(options.prompt)) tokens.push_back(t);
  std::vector<float> logits(static_cast<std::size_t>(model.vocabulary_size));
  const CounterRng rng(options.seed, hash64("generate"));
  for (std::int64_t i = 0; i < options.tokens; ++i) {
    const std::size_t context = std::min(tokens.size(), static_cast<std::size_t>(length));
    stage->next_token_logits(std::span(tokens).last(context), logits);
    const std::int32_t next =
        sample(logits, options.temperature, rng, static_cast<std::uint64_t>(i));
    if (next == tokenizer->end_of_document()) break;
    tokens.push_back(next);
  }
  return tokenizer->decode(std::span(tokens).subspan(1));
}

}  // namespace tenax::tools
