#include <cstdio>

#include "compute/cuda/matmul.h"

namespace tenax::cuda {

std::uint32_t matmul_alignment(const tenax_cuda_matmul& c) {
  std::uintptr_t all = 16;
  for (const void* p :
       {c.a, c.b, c.c, c.bias, static_cast<const void*>(c.d), static_cast<const void*>(c.aux)})
    all |= reinterpret_cast<std::uintptr_t>(p);
  return static_cast<std::uint32_t>(all & (~all + 1));  // the lowest bit
}

std::string matmul_key(const tenax_cuda_matmul& c) {
  const auto type = [](std::int32_t t) { return t == TENAX_CUDA_F32 ? "f32" : "bf16"; };
  char text[320];
  std::snprintf(
      text, sizeof text,
      "%s-%s %c%c m%lld n%lld k%lld ld %lld %lld %lld %lld %lld epilogue %d%s%s%s align %u",
      type(c.type), type(c.out_type), c.transpose_a != 0 ? 't' : 'n',
      c.transpose_b != 0 ? 't' : 'n', static_cast<long long>(c.m), static_cast<long long>(c.n),
      static_cast<long long>(c.k), static_cast<long long>(c.lda), static_cast<long long>(c.ldb),
      static_cast<long long>(c.c != nullptr ? c.ldc : 0), static_cast<long long>(c.ldd),
      static_cast<long long>(c.aux != nullptr ? c.ld_aux : 0), c.epilogue,
      c.bias != nullptr ? " bias" : "", c.c != nullptr ? " add" : "",
      c.bias_gradient != nullptr ? " bgrad" : "", matmul_alignment(c));
  return text;
}

std::string plan_line(const std::string& key, const MatmulAlgorithm& a) {
  char text[200];
  std::snprintf(
      text, sizeof text,
      "id %d tile %u splitk %d reduction %u swizzle %u custom %u stages %u inner %u cluster %u",
      a.id, a.tile, a.split_k, a.reduction, a.swizzle, a.custom, a.stages, a.inner_shape,
      a.cluster_shape);
  return "matmul " + key + " = " + text;
}

bool parse_plan_line(const std::string& line, std::string& key, MatmulAlgorithm& a) {
  const std::string kPrefix = "matmul ";
  const std::size_t equals = line.find(" = ");
  if (!line.starts_with(kPrefix) || equals == std::string::npos) return false;
  unsigned inner = 0;
  unsigned cluster = 0;
  char rest = 0;
  const int found = std::sscanf(
      line.c_str() + equals + 3,
      "id %d tile %u splitk %d reduction %u swizzle %u custom %u stages %u inner %u cluster %u%c",
      &a.id, &a.tile, &a.split_k, &a.reduction, &a.swizzle, &a.custom, &a.stages, &inner, &cluster,
      &rest);
  if (found != 9 || inner > 0xFFFF || cluster > 0xFFFF) return false;
  a.inner_shape = static_cast<std::uint16_t>(inner);
  a.cluster_shape = static_cast<std::uint16_t>(cluster);
  key = line.substr(kPrefix.size(), equals - kPrefix.size());
  return true;
}

ColumnMajorProduct column_major(const tenax_cuda_matmul& c) {
  // A row-major (r, s) buffer is a column-major (s, r) one with the same leading dimension.
  ColumnMajorProduct p;
  p.transpose_first = c.transpose_b != 0;
  p.transpose_second = c.transpose_a != 0;
  p.first = c.transpose_b != 0 ? ColumnMajorProduct::Layout{c.k, c.n, c.ldb}
                               : ColumnMajorProduct::Layout{c.n, c.k, c.ldb};
  p.second = c.transpose_a != 0 ? ColumnMajorProduct::Layout{c.m, c.k, c.lda}
                                : ColumnMajorProduct::Layout{c.k, c.m, c.lda};
  p.out = {c.n, c.m, c.ldd};
  return p;
}

}  // namespace tenax::cuda
