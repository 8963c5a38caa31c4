#include "compute/gemm.h"

#include <fmt/format.h>

#include "common/check.h"
#include "compute/cpu/gemm_call.h"

namespace tenax::compute {

Gemm::Gemm(cpu::Isa isa, Precision precision)
    : isa_(isa),
      precision_(precision),
      paired_(precision == Precision::kBf16 && isa == cpu::Isa::kAvx512 &&
              cpu::bf16_products_pay()),
      pack_a_(static_cast<std::size_t>(cpu::kPackAFloats)),
      pack_b_(static_cast<std::size_t>(cpu::kPackBFloats)) {
  TENAX_CHECK(cpu::is_available(isa));
}

void Gemm::nt(const GemmShape& shape, ConstMatrix a, ConstMatrix b, Matrix c, Write write) {
  run(shape, a.data, b.data, {a.stride, 1, 1, b.stride}, c, write);
}

void Gemm::nn(const GemmShape& shape, ConstMatrix a, ConstMatrix b, Matrix c, Write write) {
  run(shape, a.data, b.data, {a.stride, 1, b.stride, 1}, c, write);
}

void Gemm::tn(const GemmShape& shape, ConstMatrix a, ConstMatrix b, Matrix c, Write write) {
  run(shape, a.data, b.data, {1, a.stride, b.stride, 1}, c, write);
}

void Gemm::run(const GemmShape& shape, const float* a, const float* b, const Strides& strides,
               Matrix c, Write write) {
  cpu::GemmCall call;
  call.m = shape.m;
  call.n = shape.n;
  call.k = shape.k;
  call.a = a;
  call.a_stride_m = strides.a_m;
  call.a_stride_k = strides.a_k;
  call.b = b;
  call.b_stride_k = strides.b_k;
  call.b_stride_n = strides.b_n;
  call.c = c.data;
  call.c_stride = c.stride;
  call.add = write == Write::kAdd;
  call.bf16 = precision_ == Precision::kBf16;
  call.pack_a = pack_a_.data();
  call.pack_b = pack_b_.data();
  switch (isa_) {
#if defined(__x86_64__)
    case cpu::Isa::kAvx512:
      return paired_ ? cpu::gemm_avx512bf16(call) : cpu::gemm_avx512(call);
    case cpu::Isa::kAvx2:
      return cpu::gemm_avx2(call);
#endif
    default:
      return cpu::gemm_portable(call);
  }
}

std::string Gemm::description() const {
  const std::string_view factors = paired_                          ? "bf16"
                                   : precision_ == Precision::kBf16 ? " rounding to bf16"
                                                                    : "";
  return fmt::format("{}{} k{}", cpu::to_string(isa_), factors, cpu::kBlockK);
}

std::int64_t Gemm::workspace_bytes() {
  return (cpu::kPackAFloats + cpu::kPackBFloats) * static_cast<std::int64_t>(sizeof(float));
}

}  // namespace tenax::compute
