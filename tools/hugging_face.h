// How Hugging Face's transformers name and arrange the weights of the models that Tenax trains.
//
// GPT-2: Conv1D layers keep their matrices as (in, out), query, key and value side by side in one.
// LLaMA: RoPE there rotates element i of a head with element i + D/2; ours, as the first LLaMA,
// rotates the neighbours 2i and 2i + 1: the rows of query and key are permuted within each head.
// Any other architecture keeps Tenax's own names and shapes. Pure functions and values.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "common/run_types.h"
#include "compute/model_options.h"
#include "compute/parameters.h"

namespace tenax::tools {

enum class NamingScheme { kGpt2, kLlama, kTenax };
std::string_view to_string(NamingScheme scheme);

/// How a foreign tensor's rows and columns come from ours.
enum class Arrangement {
  kSame,
  kTransposed,    ///< ours (out, in), theirs (in, out)
  kRotaryHalves,  ///< row h D + j D/2 + i of theirs is row h D + 2i + j of ours
};

/// A tensor of the files. Several parts lie side by side along its last dim.
struct ForeignTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  Arrangement arrangement = Arrangement::kSame;
  std::vector<compute::ParameterSpec> parts;  ///< tensors of ours
  std::int64_t head_dim = 0;                  ///< for kRotaryHalves

  /// Seen as a matrix; a vector is one row, or one column if its rows are permuted.
  std::int64_t rows() const;
  std::int64_t columns() const;
};

struct ForeignModel {
  NamingScheme scheme = NamingScheme::kTenax;
  std::string reason;  ///< why a known scheme does not fit; empty if one does
  std::vector<ForeignTensor> tensors;
};

/// Every tensor, in the model's order. Rows of the embedding that only pad the vocabulary are left
/// out in foreign schemes.
ForeignModel foreign_model(const compute::ModelOptions& options);

/// config.json of transformers, for kGpt2 and kLlama.
std::string transformers_config(const compute::ModelOptions& options, NamingScheme scheme,
                                std::int64_t end_of_document);

/// What in a config.json contradicts the model, one sentence each; empty if nothing does. What
/// shapes show already (widths, layers) is not compared. kDataLoss if it is no JSON object.
Result<std::vector<std::string>> contradictions(const compute::ModelOptions& options,
                                                NamingScheme scheme, std::string_view config_json);

/// As many rows as fit into a buffer of constant size: whole heads where rows are permuted.
std::int64_t rows_at_once(const ForeignTensor& tensor);

/// Reads a box of one of our tensors, row-major.
using ReadBox =
    std::function<Status(const std::string& name, const Box& box, std::span<float> out)>;

/// Rows [first, first + num_rows) of the foreign tensor. Permuted rows: whole heads.
Status read_rows(const ForeignTensor& tensor, std::int64_t first, std::int64_t num_rows,
                 const ReadBox& read, std::span<float> out);

/// The reverse for one part: puts what those foreign rows hold of tensor.parts[part] into `ours`,
/// which is all of that tensor.
void place_rows(const ForeignTensor& tensor, std::size_t part, std::int64_t first,
                std::int64_t num_rows, std::span<const float> rows, std::span<float> ours);

}  // namespace tenax::tools
