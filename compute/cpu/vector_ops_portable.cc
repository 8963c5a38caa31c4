// The vector kernels built for portable.
#include "compute/cpu/vector_ops_build.h"

namespace tenax::compute::cpu {

const VectorOps& vector_ops_portable() { return kThisBuild; }

}  // namespace tenax::compute::cpu
