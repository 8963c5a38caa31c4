// What the host's memory is asked to do gives the same bits whatever number of threads share it.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "common/counter_rng.h"
#include "compute/device.h"
#include "compute/tensor_norm.h"

namespace tenax::compute {
namespace {

std::vector<float> random_floats(std::uint64_t stream, std::size_t n) {
  const CounterRng rng(7, stream);
  std::vector<float> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = static_cast<float>(rng.normal(i));
  return values;
}

class HostDeviceThreads : public testing::TestWithParam<std::size_t> {
 protected:
  std::size_t size() const { return GetParam(); }
};

TEST_P(HostDeviceThreads, SumTheSquaresOfAChunkAsOneDoes) {
  const std::vector<float> tensor = random_floats(1, size());
  std::vector<double> expected(num_norm_chunks(size()));
  chunk_sums_of_squares(tensor, expected);
  for (const int threads : {1, 2, 3}) {
    std::vector<double> sums(expected.size(), -1);
    const NormRange range{tensor, sums};
    HostDevice(threads).chunk_squares({&range, 1});
    EXPECT_EQ(sums, expected) << threads << " threads";
  }
}

TEST_P(HostDeviceThreads, UpdateEveryWeightOnceAsOneDoes) {
  const AdamwStep step{3, 0.01, 0.5};
  const auto updated = [&](const auto& update) {
    std::vector<float> values = random_floats(2, size());
    std::vector<float> m = random_floats(3, size());
    std::vector<float> v(size(), 0.25F);
    const std::vector<float> gradient = random_floats(4, size());
    update(AdamwRange{values, gradient, m, v, true});
    values.insert(values.end(), m.begin(), m.end());
    values.insert(values.end(), v.begin(), v.end());
    return values;
  };
  const std::vector<float> expected =
      updated([&](const AdamwRange& range) { adamw_update({}, step, range); });
  for (const int threads : {1, 2, 3})
    EXPECT_EQ(updated([&](const AdamwRange& range) {
                HostDevice(threads).adamw({}, step, {&range, 1});
              }),
              expected)
        << threads << " threads";
}

TEST_P(HostDeviceThreads, AddCopyAndClearTheWholeBuffer) {
  const std::vector<float> a = random_floats(5, size());
  const std::vector<float> b = random_floats(6, size());
  std::vector<float> expected(size());
  std::ranges::transform(a, b, expected.begin(), std::plus<>());
  for (const int threads : {1, 2, 3}) {
    HostDevice device(threads);
    std::vector<float> sum(size(), 9.0F);
    device.copy(a, sum);
    EXPECT_EQ(sum, a) << threads << " threads";
    device.add(sum, b, sum);
    EXPECT_EQ(sum, expected) << threads << " threads";
    device.zero(sum);
    EXPECT_EQ(sum, std::vector<float>(size())) << threads << " threads";
  }
}

// Less than a chunk of the norm, whole pieces of work, and one float beyond them.
INSTANTIATE_TEST_SUITE_P(Sizes, HostDeviceThreads,
                         testing::Values(0, 1, 4095, 65536, 65537, 5 * 65536 + 4097));

}  // namespace
}  // namespace tenax::compute
