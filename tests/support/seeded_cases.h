// Which random cases a test tries. By default a few, until the test's share of time is used up;
// with TENAX_TEST_FULL=1 ten seeds for every shape; with TENAX_SEED=n that one alone.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "common/counter_rng.h"
#include "tests/support/run_under_test.h"

namespace tenax::testing {

/// Random choices of one case: a pure function of the seed and the order of the calls.
class Choices {
 public:
  explicit Choices(std::uint64_t seed) : rng_(seed, 0) {}
  /// Uniform in [first, last].
  std::int64_t between(std::int64_t first, std::int64_t last) {
    return first + static_cast<std::int64_t>(rng_.bits(next_++) %
                                             static_cast<std::uint64_t>(last - first + 1));
  }
  Milliseconds up_to(Milliseconds most) { return Milliseconds(between(0, most.count())); }
  template <class T>
  const T& of(const std::vector<T>& all) {
    return all.at(static_cast<std::size_t>(between(0, static_cast<std::int64_t>(all.size()) - 1)));
  }

 private:
  CounterRng rng_;
  std::uint64_t next_ = 0;
};

bool full_matrix();
/// "TENAX_SEED=7 build/... --gtest_filter=A.B"
std::string replay_line(std::uint64_t seed);

/// Calls `test` with one seed after the other; the shape goes by the seed. Stops at the first that
/// fails, whose replay line is printed.
void for_each_seed(std::chrono::milliseconds budget,
                   const std::function<void(const Shape&, Choices&)>& test);

}  // namespace tenax::testing
