// The vector kernels built for avx512.
#include "compute/cpu/vector_ops_build.h"

namespace tenax::compute::cpu {

const VectorOps& vector_ops_avx512() { return kThisBuild; }

}  // namespace tenax::compute::cpu
