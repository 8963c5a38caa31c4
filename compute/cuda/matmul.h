// Matrix products through cuBLASLt, with one algorithm for each shape, chosen once and written
// down. One thread.
#pragma once

#include <memory>
#include <string>

#include "compute/cuda/errors.h"

struct tenax_cuda_context;

namespace tenax::cuda {

class MatrixProducts {
 public:
  virtual ~MatrixProducts() = default;
  /// Queues the product. `fused_bias_gradient`: whether sums for bias_gradient were written to
  /// `bias_scratch` (m floats) on the way; otherwise the caller makes them.
  virtual Outcome run(const tenax_cuda_matmul& call, float* bias_scratch,
                      bool* fused_bias_gradient) = 0;
  /// A line for each algorithm in use, sorted.
  virtual std::string plans() const = 0;
  /// Takes one line of plans(); false if it is none of these or this library refuses it at its
  /// first use.
  virtual bool use_plan(const std::string& line) = 0;
};

/// The context outlives it.
std::unique_ptr<MatrixProducts> make_matrix_products(tenax_cuda_context& context);

/// A shape's name in a plan: all that an algorithm depends on, and nothing else.
std::string matmul_key(const tenax_cuda_matmul& call);

/// What fixes one cuBLASLt algorithm.
struct MatmulAlgorithm {
  std::int32_t id = 0;
  std::uint32_t tile = 0;
  std::int32_t split_k = 0;
  std::uint32_t reduction = 0;
  std::uint32_t swizzle = 0;
  std::uint32_t custom = 0;
  std::uint32_t stages = 0;
  std::uint16_t inner_shape = 0;
  std::uint16_t cluster_shape = 0;

  bool operator==(const MatmulAlgorithm&) const = default;
};

/// Bytes that all operands are aligned to: 16 at most, which every tensor of an aligned model has.
std::uint32_t matmul_alignment(const tenax_cuda_matmul& call);

/// "matmul <key> = id 66 tile 20 ..."; and back, false if the line is another.
std::string plan_line(const std::string& key, const MatmulAlgorithm& algorithm);
bool parse_plan_line(const std::string& line, std::string& key, MatmulAlgorithm& algorithm);

/// The same product as cuBLASLt sees it, in column-major order: d^T = op(b)^T op(a)^T.
struct ColumnMajorProduct {
  /// Rows, columns and leading dimension of the buffers.
  struct Layout {
    std::int64_t rows = 0, columns = 0, ld = 0;
    bool operator==(const Layout&) const = default;
  };
  bool transpose_first = false, transpose_second = false;
  Layout first;   ///< of b
  Layout second;  ///< of a
  Layout out;     ///< of d; c has its rows and columns
};
ColumnMajorProduct column_major(const tenax_cuda_matmul& call);

}  // namespace tenax::cuda
