// The vector kernels built for avx2.
#include "compute/cpu/vector_ops_build.h"

namespace tenax::compute::cpu {

const VectorOps& vector_ops_avx2() { return kThisBuild; }

}  // namespace tenax::compute::cpu
