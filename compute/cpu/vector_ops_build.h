// Assembles the table of one build of the vector kernels. Included by each vector_ops_*.cc, which
// is compiled for its own instruction set.
#pragma once

#include "compute/cpu/activation_rows.h"
#include "compute/cpu/dropout_rows.h"
#include "compute/cpu/norm_rows.h"
#include "compute/cpu/simple_rows.h"
#include "compute/cpu/softmax_rows.h"

namespace tenax::compute::cpu {
namespace {

inline constexpr VectorOps kThisBuild = {
    norm_forward,
    norm_backward,
    norm_backward_weight,
    activation_forward,
    activation_backward,
    softmax_forward,
    softmax_backward,
    cross_entropy,
    rope,
    adamw,
    add,
    dropout,
    scale,
    row_dots,
    squares,
};

}  // namespace
}  // namespace tenax::compute::cpu
