#include "compute/model_options.h"

#include <fmt/format.h>

#include <cmath>

namespace tenax::compute {
namespace {

/// Far beyond any model, and small enough that no sum of sizes overflows.
constexpr std::int64_t kLargestSize = std::int64_t{1} << 26;
constexpr double kMostParameters = 0x1p45;

/// Near enough to judge whether offsets fit into 64 bits; in double, so that nothing overflows
/// here.
double rough_num_parameters(const ModelOptions& o) {
  const auto product = [](std::int64_t x, std::int64_t y) {
    return static_cast<double>(x) * static_cast<double>(y);
  };
  const double heads = product(2 * (o.num_heads + o.num_kv_heads), o.head_dim);
  const double layer =
      static_cast<double>(o.width) * (heads + 3.0 * static_cast<double>(o.ffn_width));
  return product(2 * o.padded_vocabulary_size + o.max_sequence_length, o.width) +
         static_cast<double>(o.num_layers) * layer;
}

}  // namespace

ModelOptions resolved(ModelOptions o) {
  if (o.padded_vocabulary_size == 0) o.padded_vocabulary_size = o.vocabulary_size;
  if (o.num_kv_heads == 0) o.num_kv_heads = o.num_heads;
  if (o.head_dim == 0 && o.num_heads > 0) o.head_dim = o.width / o.num_heads;
  if (o.ffn_width == 0 && o.width <= kLargestSize) o.ffn_width = 4 * o.width;
  return o;
}

std::vector<std::string> problems(const ModelOptions& options) {
  std::vector<std::string> found;
  const auto positive = [&](std::string_view name, std::int64_t value) {
    if (value < 1 || value > kLargestSize)
      found.push_back(fmt::format("{} is {}, must be between 1 and {}", name, value, kLargestSize));
  };
  const ModelOptions o = resolved(options);
  positive("vocabulary_size", o.vocabulary_size);
  positive("max_sequence_length", o.max_sequence_length);
  positive("width", o.width);
  positive("num_layers", o.num_layers);
  positive("num_heads", o.num_heads);
  positive("num_kv_heads", o.num_kv_heads);
  positive("head_dim", o.head_dim);
  positive("ffn_width", o.ffn_width);
  positive("padded_vocabulary_size", o.padded_vocabulary_size);
  if (found.empty() && rough_num_parameters(o) > kMostParameters)
    found.push_back(fmt::format("the model has about {:.0f} parameters, more than can be addressed",
                                rough_num_parameters(o)));
  if (o.padded_vocabulary_size < o.vocabulary_size)
    found.push_back(fmt::format("padded_vocabulary_size is {}, smaller than vocabulary_size {}",
                                o.padded_vocabulary_size, o.vocabulary_size));
  if (options.head_dim == 0 && o.num_heads > 0 && o.width % o.num_heads != 0)
    found.push_back(fmt::format("width {} is not a multiple of num_heads {}; give head_dim itself",
                                o.width, o.num_heads));
  if (o.num_kv_heads > 0 && o.num_heads % o.num_kv_heads != 0)
    found.push_back(fmt::format("num_heads {} is not a multiple of num_kv_heads {}", o.num_heads,
                                o.num_kv_heads));
  if (o.positions == PositionKind::kRope && o.head_dim % 2 != 0)
    found.push_back(
        fmt::format("RoPE rotates pairs, but head_dim is {}, an odd number", o.head_dim));
  if (o.parallel_block && o.norm_placement == NormPlacement::kPost)
    found.push_back("parallel_block is built only with norm placement pre");

  const auto finite_positive = [&](std::string_view name, double value) {
    if (!(value > 0) || !std::isfinite(value))
      found.push_back(fmt::format("{} is {}, must be positive and finite", name, value));
  };
  finite_positive("norm_epsilon", o.norm_epsilon);
  finite_positive("rope_theta", o.rope_theta);
  finite_positive("embedding_scale", o.embedding_scale);
  finite_positive("logit_scale", o.logit_scale);
  finite_positive("init_std", o.init_std);
  if (!(o.z_loss >= 0) || !std::isfinite(o.z_loss))
    found.push_back(fmt::format("z_loss is {}, must be zero or positive and finite", o.z_loss));
  return found;
}

}  // namespace tenax::compute
