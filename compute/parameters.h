// The logical tensors of a whole model: names, shapes and initial values, the same however the
// model is later split. Checkpoints, the optimizer and the layouts speak of tensors by these names.
// Value types, pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "compute/model_options.h"

namespace tenax::compute {

/// How a tensor's initial elements come about.
struct InitRule {
  enum class Kind : std::uint8_t { kZeros, kOnes, kNormal };
  Kind kind = Kind::kZeros;
  double std = 0;  ///< of kNormal; the mean is 0

  bool operator==(const InitRule&) const = default;
};

/// How tensor-parallel ranks share a tensor (tensor_part.h).
enum class TensorSplit : std::uint8_t {
  kNone,  ///< whole on every rank, with the same gradient
  kSum,   ///< whole on every rank, each with a part of its gradient
  kRows,
  kColumns,
  kVocabulary,    ///< rows, whose number need not divide
  kKeyValueRows,  ///< rows of key and value heads, which may be fewer than ranks
};

/// One logical tensor, row-major.
struct ParameterSpec {
  std::string name;  ///< dotted and stable: "layers.3.attention.query.weight"
  std::vector<std::int64_t> shape;
  InitRule init;
  bool decay = false;  ///< takes part in weight decay: the matrices do, norms and biases do not
  TensorSplit split = TensorSplit::kNone;

  std::int64_t num_elements() const;
  bool operator==(const ParameterSpec&) const = default;
};

/// Name of the token embedding, the one tensor that two stages may hold (tied output).
inline constexpr char kTokenEmbedding[] = "embedding.token.weight";

/// Every tensor of the model in its canonical order: embedding, layers from first to last, final
/// norm, output. Linear weights are (out, in): y = x W^T + b. `options` must have no problems().
std::vector<ParameterSpec> model_parameters(const ModelOptions& options);

/// The tensors of the layers in [first_layer, end_layer) and of the ends that are asked for, in the
/// canonical order. A head of a tied model holds the token embedding even without has_embedding.
std::vector<ParameterSpec> stage_parameters(const ModelOptions& options, int first_layer,
                                            int end_layer, bool has_embedding, bool has_head);

/// Fills `values` with elements [begin, begin + values.size()) of the tensor's initial state: a
/// pure function of (seed, name, element index), so any rank makes any part.
void initial_values(const ParameterSpec& spec, std::uint64_t seed, std::int64_t begin,
                    std::span<float> values);

}  // namespace tenax::compute
