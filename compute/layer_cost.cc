#include "compute/layer_cost.h"

namespace tenax::compute {

double layer_products(const ModelOptions& options, int sequence_length) {
  const ModelOptions o = resolved(options);
  const auto width = static_cast<double>(o.width);
  const auto query = static_cast<double>(o.num_heads * o.head_dim);
  const auto kv = static_cast<double>(o.num_kv_heads * o.head_dim);
  const double projections = width * (2 * query + 2 * kv);
  const double feed_forward =
      width * static_cast<double>(o.ffn_width) * (is_gated(o.activation) ? 3 : 2);
  const double attention = query * sequence_length;  // scores and values, each over T / 2 keys
  return projections + feed_forward + attention;
}

double head_products(const ModelOptions& options) {
  const ModelOptions o = resolved(options);
  return static_cast<double>(o.width) * static_cast<double>(o.vocabulary_size);
}

}  // namespace tenax::compute
