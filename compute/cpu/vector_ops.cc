#include "compute/cpu/vector_ops.h"

namespace tenax::compute::cpu {

const VectorOps& vector_ops(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return vector_ops_avx512();
    case Isa::kAvx2:
      return vector_ops_avx2();
#endif
    default:
      return vector_ops_portable();
  }
}

}  // namespace tenax::compute::cpu
