// Matrix products on the CPU, fp32 or with factors rounded to bfloat16, row-major, with kernels of
// our own: bits depend neither on the sizes of tiles nor on who calls, and there is no thread pool
// that could hang after fork. One Gemm a thread (it owns the packing buffers); single-threaded.
#pragma once

#include <cstdint>
#include <string>

#include "compute/aligned_buffer.h"
#include "compute/cpu/isa.h"
#include "compute/precision.h"

namespace tenax::compute {

enum class Write : std::uint8_t {
  kOverwrite,
  kAdd,
};

struct GemmShape {
  std::int64_t m = 0;  ///< rows of C
  std::int64_t n = 0;  ///< columns of C
  std::int64_t k = 0;  ///< length of the sums
};

/// A row-major matrix inside a larger buffer: element (i, j) is data[i * stride + j].
struct ConstMatrix {
  const float* data = nullptr;
  std::int64_t stride = 0;
};
struct Matrix {
  float* data = nullptr;
  std::int64_t stride = 0;
  operator ConstMatrix() const { return {data, stride}; }
};

class Gemm {
 public:
  /// `isa` must be one of cpu::available_isas().
  explicit Gemm(cpu::Isa isa, Precision precision = Precision::kFp32);

  /// C (m, n) = or += A (m, k) * B (n, k)^T. C overlaps neither A nor B, here and below.
  void nt(const GemmShape& shape, ConstMatrix a, ConstMatrix b, Matrix c, Write write);
  /// C (m, n) = or += A (m, k) * B (k, n).
  void nn(const GemmShape& shape, ConstMatrix a, ConstMatrix b, Matrix c, Write write);
  /// C (m, n) = or += A (k, m)^T * B (k, n).
  void tn(const GemmShape& shape, ConstMatrix a, ConstMatrix b, Matrix c, Write write);

  /// The kernel and the block of k that fix the order of summation, for manifests: "avx512 k256",
  /// "avx512bf16 k256", "avx512 rounding to bf16 k256".
  std::string description() const;
  static std::int64_t workspace_bytes();

 private:
  cpu::Isa isa_;
  Precision precision_;
  bool paired_;  ///< bfloat16 by the instruction for pairs; bits are equal without
  AlignedBuffer pack_a_;
  AlignedBuffer pack_b_;

  struct Strides {
    std::int64_t a_m, a_k, b_k, b_n;
  };
  void run(const GemmShape& shape, const float* a, const float* b, const Strides& strides, Matrix c,
           Write write);
};

}  // namespace tenax::compute
