// Causal softmax of attention scores and the cross-entropy of logits, by rows; see simd16.h for the
// rules of this build.
#pragma once

#include "compute/cpu/dropout_rows.h"
#include "compute/cpu/simd16.h"
#include "compute/cpu/vector_ops.h"

namespace tenax::compute::cpu {
namespace {

inline constexpr float kLowest = -3.0e38f;

/// 0, 1, ..., 15 plus `start`, exact below 2^24.
TENAX_INLINE Float16 count_from(std::int64_t start) {
  constexpr Float16 kCount = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return kCount + static_cast<float>(start);
}

inline void zero_from(float* row, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) row[i] = 0.0f;
}

/// Dropout's factors of sixteen probabilities of row r, the first of them at key `key`.
TENAX_INLINE Float16 kept_of(const SoftmaxCall& c, std::int64_t r, std::int64_t key) {
  return dropout_factors(c.dropout[r], c.first_column + static_cast<std::uint32_t>(key));
}

/// The first key that row r sees.
TENAX_INLINE std::int64_t first_seen(const SoftmaxCall& c, std::int64_t r) {
  return c.positions != nullptr ? c.first_query + r - c.positions[r] : 0;
}

inline void softmax_forward(const SoftmaxCall& c) {
  for (std::int64_t r = 0; r < c.rows; ++r) {
    const std::int64_t begin = first_seen(c, r);
    float* s = c.scores + r * c.keys + begin;
    const std::int64_t seen = c.first_query + r + 1 - begin;
    const float slope = c.slope;
    Float16 top = splat(kLowest);
    for_lanes(seen, [&](std::int64_t i, auto lanes) TENAX_LAMBDA {
      Float16 x = load(s + i, lanes) * c.scale;
      if (slope != 0.0f) x += slope * (count_from(i) - static_cast<float>(seen - 1));
      store(s + i, x, lanes);
      top = max16(top, keep(x, kLowest, lanes));
    });
    const float largest = max_lanes(top);
    Float16 sum = {};
    for_lanes(seen, [&](std::int64_t i, auto lanes) TENAX_LAMBDA {
      const Float16 e = exp16(load(s + i, lanes) - largest);
      store(s + i, e, lanes);
      sum += keep(e, 0, lanes);
    });
    const float total = sum_lanes(sum);
    const float inverse = 1.0f / total;
    for_lanes(seen, [&](std::int64_t i, auto lanes)
                        TENAX_LAMBDA { store(s + i, load(s + i, lanes) * inverse, lanes); });
    if (c.dropout != nullptr) {
      for_lanes(seen, [&](std::int64_t i, auto lanes) TENAX_LAMBDA {
        store(s + i, load(s + i, lanes) * kept_of(c, r, begin + i), lanes);
      });
    }
    zero_from(s, -begin, 0);
    zero_from(s, seen, c.keys - begin);
    c.log_sum[r] = static_cast<float>(static_cast<double>(largest) +
                                      __builtin_log(static_cast<double>(total)));
  }
}

inline void softmax_backward(const SoftmaxCall& c) {
  for (std::int64_t r = 0; r < c.rows; ++r) {
    const std::int64_t begin = first_seen(c, r);
    float* s = c.scores + r * c.keys + begin;
    float* dp = c.dp + r * c.keys + begin;
    const std::int64_t seen = c.first_query + r + 1 - begin;
    const float slope = c.slope;
    const float log_sum = c.log_sum[r];
    const float delta = c.delta[r];
    for_lanes(seen, [&](std::int64_t i, auto lanes) TENAX_LAMBDA {
      Float16 x = load(s + i, lanes) * c.scale;
      if (slope != 0.0f) x += slope * (count_from(i) - static_cast<float>(seen - 1));
      const Float16 p = exp16(x - log_sum);
      if (c.dropout == nullptr) {
        store(s + i, p, lanes);
        store(dp + i, p * (load(dp + i, lanes) - delta) * c.scale, lanes);
      } else {
        const Float16 kept = kept_of(c, r, begin + i);
        store(s + i, p * kept, lanes);
        store(dp + i, p * (load(dp + i, lanes) * kept - delta) * c.scale, lanes);
      }
    });
    zero_from(s, -begin, 0);
    zero_from(dp, -begin, 0);
    zero_from(s, seen, c.keys - begin);
    zero_from(dp, seen, c.keys - begin);
  }
}

inline void cross_entropy(const CrossEntropyCall& c) {
  for (std::int64_t r = 0; r < c.rows; ++r) {
    float* row = c.logits + r * c.n;
    const std::int32_t target = c.targets[r];
    if (target < 0) {
      c.loss[r] = 0;
      c.z_term[r] = 0;
      if (c.with_gradient) zero_from(row, 0, c.n);
      continue;
    }
    Float16 top = splat(kLowest);
    for_lanes(c.n, [&](std::int64_t i, auto lanes) TENAX_LAMBDA {
      top = max16(top, keep(load(row + i, lanes) * c.logit_scale, kLowest, lanes));
    });
    const float largest = max_lanes(top);
    const float at_target = c.target_elsewhere ? 0.0f : row[target] * c.logit_scale;
    Float16 sum = {};
    for_lanes(c.n, [&](std::int64_t i, auto lanes) TENAX_LAMBDA {
      const Float16 e = exp16(load(row + i, lanes) * c.logit_scale - largest);
      if (c.with_gradient) store(row + i, e, lanes);
      sum += keep(e, 0, lanes);
    });
    const float total = sum_lanes(sum);
    const double log_sum = static_cast<double>(largest) + __builtin_log(static_cast<double>(total));
    c.loss[r] = log_sum - static_cast<double>(at_target);
    c.z_term[r] = c.z_loss * log_sum * log_sum;
    if (!c.with_gradient) continue;
    const float factor =
        static_cast<float>((1.0 + 2.0 * c.z_loss * log_sum) * static_cast<double>(c.logit_scale)) /
        total;
    for_lanes(c.n, [&](std::int64_t i, auto lanes)
                       TENAX_LAMBDA { store(row + i, load(row + i, lanes) * factor, lanes); });
    if (!c.target_elsewhere) row[target] -= c.logit_scale;
  }
}

}  // namespace
}  // namespace tenax::compute::cpu
