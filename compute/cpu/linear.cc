#include "compute/cpu/linear.h"

namespace tenax::compute::cpu {

void linear_forward(Kernels& kernels, const LinearShape& shape, const float* x, const float* weight,
                    const float* bias, float* y, Write write) {
  kernels.gemm.nt({shape.rows, shape.out, shape.in}, {x, shape.in}, {weight, shape.in},
                  {y, shape.out}, write);
  if (bias != nullptr) kernels.ops.add_bias(shape.rows, shape.out, bias, y);
}

void linear_backward_input(Kernels& kernels, const LinearShape& shape, const float* dy,
                           const float* weight, float* dx, Write write) {
  kernels.gemm.nn({shape.rows, shape.in, shape.out}, {dy, shape.out}, {weight, shape.in},
                  {dx, shape.in}, write);
}

void linear_backward_weight(Kernels& kernels, const LinearShape& shape, const float* dy,
                            const float* x, float* dweight, float* dbias) {
  kernels.gemm.tn({shape.out, shape.in, shape.rows}, {dy, shape.out}, {x, shape.in},
                  {dweight, shape.in}, Write::kAdd);
  if (dbias != nullptr) kernels.ops.add_column_sums(shape.rows, shape.out, dy, dbias);
}

}  // namespace tenax::compute::cpu
