#include "tests/support/seeded_cases.h"

#include <fmt/format.h>
#include <stdlib.h>

#include "common/hash.h"

namespace tenax::testing {

namespace {

constexpr std::uint64_t kSeedsOfAShape = 10;

std::string this_test() {
  const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
  return std::string(info->test_suite_name()) + "." + info->name();
}

}  // namespace

bool full_matrix() {
  const char* text = ::getenv("TENAX_TEST_FULL");
  return text != nullptr && std::string(text) == "1";
}

std::string replay_line(std::uint64_t seed) {
  return fmt::format("to replay: TENAX_SEED={} {} --gtest_filter={}", seed,
                     ::testing::internal::GetArgvs()[0], this_test());
}

void for_each_seed(std::chrono::milliseconds budget,
                   const std::function<void(const Shape&, Choices&)>& test) {
  const auto run = [&](std::uint64_t seed) {
    SCOPED_TRACE(replay_line(seed));
    Choices choices(seed);
    const Shape& shape = shapes()[seed % shapes().size()];
    test(shape, choices);
    if (::testing::Test::HasFailure()) fmt::print(stderr, "{}\n", replay_line(seed));
  };
  if (const char* text = ::getenv("TENAX_SEED")) {
    run(std::strtoull(text, nullptr, 10));
    return;
  }
  const auto end = std::chrono::steady_clock::now() + scaled(budget);
  // Tests begin with different shapes, so that a short sample of all tests sees each of them.
  const std::uint64_t first = hash64(this_test()) % shapes().size();
  const std::uint64_t most = kSeedsOfAShape * shapes().size();
  for (std::uint64_t i = 0; i < most && !::testing::Test::HasFailure(); ++i) {
    if (i > 0 && !full_matrix() && std::chrono::steady_clock::now() >= end) return;
    run(first + i);
  }
}

}  // namespace tenax::testing
