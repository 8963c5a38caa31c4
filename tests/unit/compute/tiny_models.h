// One tiny model for each way of building a decoder, with values far enough from their initial ones
// that every term of a gradient counts.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/counter_rng.h"
#include "common/hash.h"
#include "compute/stage.h"

namespace tenax::compute {

struct TinyModel {
  std::string name;
  ModelOptions options;
};

/// No size is a multiple of a vector or of a tile.
inline ModelOptions tiny_gpt2() {
  ModelOptions o;
  o.vocabulary_size = 11;
  o.padded_vocabulary_size = 14;
  o.max_sequence_length = 9;
  o.width = 12;
  o.num_layers = 2;
  o.num_heads = 3;
  o.ffn_width = 19;
  return o;
}

inline ModelOptions tiny_llama() {
  ModelOptions o = tiny_gpt2();
  o.num_heads = 4;
  o.num_kv_heads = 2;
  o.head_dim = 6;
  o.norm = NormKind::kRmsNorm;
  o.positions = PositionKind::kRope;
  o.activation = ActivationKind::kSwiglu;
  o.biases = false;
  o.tied_output = false;
  return o;
}

inline std::vector<TinyModel> tiny_models() {
  std::vector<TinyModel> models;
  const auto add = [&](std::string name, ModelOptions base, auto&& change) {
    change(base);
    models.push_back({std::move(name), base});
  };
  add("Gpt2", tiny_gpt2(), [](ModelOptions&) {});
  add("Llama", tiny_llama(), [](ModelOptions&) {});
  add("Bloom", tiny_gpt2(), [](ModelOptions& o) {
    o.positions = PositionKind::kAlibi;
    o.embedding_norm = true;
  });
  add("Palm", tiny_llama(), [](ModelOptions& o) {
    o.norm = NormKind::kLayerNorm;
    o.num_kv_heads = 1;
    o.parallel_block = true;
    o.tied_output = true;
    o.z_loss = 0.01;
  });
  add("Opt", tiny_gpt2(), [](ModelOptions& o) { o.activation = ActivationKind::kRelu; });
  add("GeluErf", tiny_gpt2(), [](ModelOptions& o) { o.activation = ActivationKind::kGeluErf; });
  add("PostNorm", tiny_gpt2(), [](ModelOptions& o) { o.norm_placement = NormPlacement::kPost; });
  add("PostRmsNormGeglu", tiny_llama(), [](ModelOptions& o) {
    o.norm_placement = NormPlacement::kPost;
    o.activation = ActivationKind::kGeglu;
    o.biases = true;
  });
  add("QkNormNoPositions", tiny_gpt2(), [](ModelOptions& o) {
    o.qk_norm = true;
    o.positions = PositionKind::kNone;
  });
  add("QkNormRope", tiny_llama(), [](ModelOptions& o) { o.qk_norm = true; });
  add("Scales", tiny_gpt2(), [](ModelOptions& o) {
    o.embedding_scale = 1.7;
    o.logit_scale = 0.6;
    o.z_loss = 0.02;
  });
  add("ParallelWithBiases", tiny_gpt2(), [](ModelOptions& o) { o.parallel_block = true; });
  return models;
}

/// The value of element `i` of a tensor in these tests.
inline float test_value(const ParameterSpec& spec, std::int64_t i) {
  const float x = CounterRng(5, hash64(spec.name)).normal(static_cast<std::uint64_t>(i));
  if (spec.init.kind == InitRule::Kind::kOnes) return 1.0f + 0.2f * x;
  return 0.4f * x;
}

inline void fill_for_test(Stage& stage) {
  for (const StageParameter& p : stage.parameters())
    for (std::int64_t i = 0; i < p.size; ++i)
      stage.values()[static_cast<std::size_t>(p.offset + i)] = test_value(p.spec, i);
}

/// Tokens and targets (B, T) of a microbatch; about one target in five is masked.
struct TestBatch {
  BatchShape shape;
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> targets;
  std::vector<std::int32_t> positions;  ///< empty: one document a sample

  std::vector<std::int64_t> samples;  ///< absolute positions, for dropout

  StageBatch inputs() const { return {tokens, targets, positions, samples}; }

  TestBatch(const ModelOptions& options, BatchShape batch, std::uint64_t seed = 1) : shape(batch) {
    const CounterRng rng(seed, 0);
    const auto size = static_cast<std::uint64_t>(batch.microbatch_size) *
                      static_cast<std::uint64_t>(batch.sequence_length);
    const auto vocabulary = static_cast<std::uint64_t>(options.vocabulary_size);
    for (std::uint64_t i = 0; i < size; ++i) {
      tokens.push_back(static_cast<std::int32_t>(rng.bits(2 * i) % vocabulary));
      const std::uint64_t target = rng.bits(2 * i + 1);
      targets.push_back(target % 5 == 0 ? -1
                                        : static_cast<std::int32_t>((target >> 8) % vocabulary));
    }
  }
};

inline std::unique_ptr<Stage> make_stage(const ModelOptions& options, const StageSpec& spec,
                                         const BatchShape& shape, int num_slots = 1,
                                         const StageSettings& settings = {}) {
  auto stage = Stage::create(options, spec, shape, num_slots, settings);
  if (!stage) throw std::runtime_error(stage.error().message);
  fill_for_test(**stage);
  return *std::move(stage);
}

/// Forward and backward of the whole model on one microbatch.
struct Trained {
  LossSum loss;
  std::vector<double> sample_losses;
  std::vector<float> gradient;
};

inline Trained train_once(Stage& stage, const TestBatch& batch, int slot = 0) {
  Trained result;
  result.gradient.assign(stage.gradient_size(), 0.0f);
  stage.forward(slot, batch.inputs(), {}, {});
  stage.backward(slot, {}, {}, result.gradient);
  result.loss = stage.loss(slot);
  const auto samples = stage.sample_losses(slot);
  result.sample_losses.assign(samples.begin(), samples.end());
  return result;
}

}  // namespace tenax::compute
