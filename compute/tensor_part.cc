#include "compute/tensor_part.h"

#include <fmt/format.h>

#include <algorithm>

namespace tenax::compute {
namespace {

/// The head that a rank reads where key and value heads are fewer than ranks, and its fellows.
struct CopiedHead {
  std::int64_t head;
  int first_rank;
  int end_rank;
};

CopiedHead copied_head(std::int64_t num_kv_heads, const TensorPart& part) {
  const int ranks = part.size / static_cast<int>(num_kv_heads);
  const int head = part.index / ranks;
  return {head, head * ranks, (head + 1) * ranks};
}

}  // namespace

TokenRows token_rows(std::int64_t tokens, const TensorPart& part) {
  return {tokens * part.index / part.size, tokens * (part.index + 1) / part.size};
}

std::int64_t max_token_rows(std::int64_t tokens, const TensorPart& part) {
  return (tokens + part.size - 1) / part.size;
}

std::int64_t vocabulary_rows(const ModelOptions& options, int tensor_parallel) {
  const std::int64_t rows = resolved(options).padded_vocabulary_size;
  return (rows + tensor_parallel - 1) / tensor_parallel;
}

HeldPart held_part(const ModelOptions& options, const ParameterSpec& spec, const TensorPart& part) {
  const ModelOptions o = resolved(options);
  HeldPart held;
  held.box = {std::vector<std::int64_t>(spec.shape.size(), 0), spec.shape};
  held.elements = spec.num_elements();
  held.first = part.index == 0;
  if (part.size == 1) return held;
  const auto cut = [&](std::size_t dim, std::int64_t begin, std::int64_t extent) {
    held.elements = held.elements / spec.shape[dim] * extent;
    held.box.offset[dim] = std::min(begin, spec.shape[dim]);
    held.box.extent[dim] = std::min(extent, spec.shape[dim] - held.box.offset[dim]);
    held.first = true;
  };
  switch (spec.split) {
    case TensorSplit::kNone:
      break;
    case TensorSplit::kSum:
      held.end_addend = part.size;
      break;
    case TensorSplit::kVocabulary: {
      const std::int64_t rows = vocabulary_rows(o, part.size);
      cut(0, rows * part.index, rows);
      break;
    }
    case TensorSplit::kRows:
    case TensorSplit::kColumns: {
      const std::size_t dim = spec.split == TensorSplit::kRows ? 0 : 1;
      const std::int64_t extent = spec.shape[dim] / part.size;
      cut(dim, extent * part.index, extent);
      break;
    }
    case TensorSplit::kKeyValueRows: {
      if (o.num_kv_heads >= part.size) {
        const std::int64_t extent = spec.shape[0] / part.size;
        cut(0, extent * part.index, extent);
        break;
      }
      const CopiedHead copy = copied_head(o.num_kv_heads, part);
      cut(0, copy.head * o.head_dim, o.head_dim);
      held.first = part.index == copy.first_rank;
      held.first_addend = copy.first_rank;
      held.end_addend = copy.end_rank;
      break;
    }
  }
  return held;
}

ModelOptions local_options(const ModelOptions& options, const TensorPart& part) {
  ModelOptions o = resolved(options);
  if (part.size == 1) return o;
  const std::int64_t rows = vocabulary_rows(o, part.size);
  o.vocabulary_size = std::clamp<std::int64_t>(o.vocabulary_size - rows * part.index, 0, rows);
  o.padded_vocabulary_size = rows;
  o.num_heads /= part.size;
  o.num_kv_heads = std::max<std::int64_t>(o.num_kv_heads / part.size, 1);
  o.ffn_width /= part.size;
  return o;
}

std::vector<std::string> tensor_problems(const ModelOptions& options, int tensor_parallel) {
  const ModelOptions o = resolved(options);
  const std::int64_t tp = tensor_parallel;
  std::vector<std::string> found;
  if (tp < 1) return {fmt::format("tp is {}, must be at least 1", tp)};
  const auto divides = [&](std::string_view name, std::int64_t value) {
    if (value % tp != 0)
      found.push_back(fmt::format("{} {} is not a multiple of tp {}", name, value, tp));
  };
  divides("heads", o.num_heads);
  divides("ffn_width", o.ffn_width);
  if (tp > 1 && o.width % 2 != 0)  // ranks exchange BF16 rows as float32 numbers
    found.push_back(fmt::format("width {} is odd, with tp {}", o.width, tp));
  if (o.num_kv_heads >= tp || tp % o.num_kv_heads != 0) divides("kv_heads", o.num_kv_heads);
  if (o.padded_vocabulary_size < tp)
    found.push_back(
        fmt::format("the vocabulary has {} rows, fewer than tp {}", o.padded_vocabulary_size, tp));
  return found;
}

}  // namespace tenax::compute
