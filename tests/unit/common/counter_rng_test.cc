#include "common/counter_rng.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tenax {
namespace {

// Known answers of the Random123 distribution (kat_vectors, philox4x32 10).
TEST(Philox, AgreesWithRandom123KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Philox4{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Philox4{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Philox4{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(CounterRng, NormalHasUnitMomentsAndStreamsDiffer) {
  const CounterRng a(1, 10);
  const CounterRng b(1, 11);
  constexpr int kN = 200000;
  double sum = 0;
  double squares = 0;
  double cross = 0;
  for (int i = 0; i < kN; ++i) {
    const double x = a.normal(i);
    sum += x;
    squares += x * x;
    cross += x * b.normal(i);
  }
  // Five standard errors of each estimate.
  EXPECT_NEAR(sum / kN, 0.0, 5 / std::sqrt(kN));
  EXPECT_NEAR(squares / kN, 1.0, 5 * std::sqrt(2.0 / kN));
  EXPECT_NEAR(cross / kN, 0.0, 5 / std::sqrt(kN));
}

}  // namespace
}  // namespace tenax
