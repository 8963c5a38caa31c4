#include "compute/dropout.h"

#include <fmt/format.h>

#include <cmath>

#include "common/counter_rng.h"
#include "common/hash.h"

namespace tenax::compute {

DropoutSite dropout_site(std::uint64_t seed, std::string_view name, double rate) {
  DropoutSite site;
  site.key = CounterRng(seed, hash64("dropout")).bits(hash64(name));
  site.threshold = static_cast<std::uint32_t>(std::lround(rate * 0x1p24));
  site.scale = static_cast<float>(1 / (1 - rate));
  return site;
}

StageDropout stage_dropout(const DropoutRates& rates, std::uint64_t seed, int first_layer,
                           int end_layer) {
  StageDropout dropout;
  if (!rates.any()) return dropout;
  dropout.embedding = dropout_site(seed, "embedding", rates.embedding);
  for (int layer = first_layer; layer < end_layer; ++layer) {
    const auto site = [&](std::string_view part, double rate) {
      return dropout_site(seed, fmt::format("layers.{}.{}", layer, part), rate);
    };
    dropout.layers.push_back({site("attention.probabilities", rates.attention),
                              site("attention.output", rates.residual),
                              site("ffn.output", rates.residual)});
  }
  return dropout;
}

DropoutRow dropout_row(const DropoutSite& site, std::int64_t sample, std::uint64_t row) {
  const auto position = static_cast<std::uint64_t>(sample);
  const Philox4 bits = philox4x32(
      {static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(row >> 32),
       static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(position >> 32)},
      {static_cast<std::uint32_t>(site.key), static_cast<std::uint32_t>(site.key >> 32)});
  return {bits[0], bits[1], site.threshold, site.scale};
}

float dropout_factor(const DropoutRow& row, std::uint32_t column) {
  std::uint32_t x = column + row.key0;
  x ^= x >> 16;
  x *= kDropoutMultiplier0;
  x += row.key1;
  x ^= x >> 15;
  x *= kDropoutMultiplier1;
  x ^= x >> 16;
  return (x >> 8) < row.threshold ? 0.0f : row.scale;
}

}  // namespace tenax::compute
