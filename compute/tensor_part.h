// Tensor parallelism as sizes: which part of each matrix one of several ranks holds (Megatron:
// Shoeybi et al. 2019, arXiv:1909.08053). Projections out of the residual stream are cut by rows
// (heads, feed-forward), projections into it by columns, embedding and logits by vocabulary rows;
// everything else is on every rank. Key and value heads are copied where there are fewer of them
// than ranks. Between the matrices each rank has some rows of the residual stream (sequence
// parallelism: Korthikanti et al. 2022, arXiv:2205.05198). Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/run_types.h"
#include "compute/model_options.h"
#include "compute/parameters.h"

namespace tenax::compute {

/// One of the ranks that share the matrices of a stage.
struct TensorPart {
  int size = 1;
  int index = 0;
  bool operator==(const TensorPart&) const = default;
};

/// Tokens [begin, end) of a microbatch, whose rows of the residual stream a rank has.
struct TokenRows {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
};
/// Nearly equal parts of `tokens`, in the order of the ranks; empty where they are fewer.
TokenRows token_rows(std::int64_t tokens, const TensorPart& part);
/// The most that any of the ranks has.
std::int64_t max_token_rows(std::int64_t tokens, const TensorPart& part);

/// What one rank holds of a tensor, and who else holds it or a part of its gradient.
struct HeldPart {
  Box box;                    ///< of the whole tensor
  std::int64_t elements = 0;  ///< allocated: may exceed the box by rows of a vocabulary that does
                              ///< not divide; those are zero and stay so
  bool first = true;          ///< no rank before this one holds the box: it counts and writes it
  /// Ranks (indices) whose gradients of this box are added up; one or none: nothing to add.
  int first_addend = 0;
  int end_addend = 0;
};
HeldPart held_part(const ModelOptions& options, const ParameterSpec& spec, const TensorPart& part);

/// The sizes that the kernels of a rank work with: heads, feed-forward and vocabulary divided. The
/// vocabulary_size is that of the rows which are tokens; it may be 0. `options` are resolved() and
/// without tensor_problems().
ModelOptions local_options(const ModelOptions& options, const TensorPart& part);

/// Rows of the vocabulary that each rank allocates; the last may use fewer.
std::int64_t vocabulary_rows(const ModelOptions& options, int tensor_parallel);

/// What cannot be divided over so many ranks, one sentence each.
std::vector<std::string> tensor_problems(const ModelOptions& options, int tensor_parallel);

}  // namespace tenax::compute
