#include "compute/tree_reduce.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "tests/support/thread_world.h"
#include "tests/support/whole_reduction.h"

namespace tenax::compute {
namespace {

using test::all_ranks;
using test::run_world;

/// Gradient element `element` of a microbatch: magnitudes far apart, so that the order of summation
/// shows.
float gradient(int microbatch, std::size_t element) {
  std::minstd_rand random(static_cast<unsigned>(microbatch * 7919 + element * 104729 + 1));
  random.discard(3);
  const float mantissa = static_cast<float>(random()) / 1.0e9f - 1.0f;
  return std::ldexp(mantissa, static_cast<int>(random() % 24) - 12);
}

/// The definition, written down directly: split behind the largest power of two below the size.
float reference_sum(int begin, int end, std::size_t element) {
  if (end - begin == 1) return gradient(begin, element);
  int half = 1;
  while (2 * half < end - begin) half *= 2;
  return reference_sum(begin, begin + half, element) + reference_sum(begin + half, end, element);
}

std::vector<float> reference(int num_microbatches, std::size_t num_elements) {
  std::vector<float> sums(num_elements);
  for (std::size_t k = 0; k < num_elements; ++k) sums[k] = reference_sum(0, num_microbatches, k);
  return sums;
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

TreeAccumulator filled(MicrobatchRange range, std::size_t num_elements) {
  TreeAccumulator accumulator(num_elements, range);
  std::vector<float> gradients(num_elements);
  for (int m = range.begin; m < range.end; ++m) {
    for (std::size_t k = 0; k < num_elements; ++k) gradients[k] = gradient(m, k);
    accumulator.add(gradients);
  }
  return accumulator;
}

/// Contiguous ranges of the given sizes.
std::vector<MicrobatchRange> ranges_of(const std::vector<int>& sizes) {
  std::vector<MicrobatchRange> ranges;
  int begin = 0;
  for (const int size : sizes) {
    ranges.push_back({begin, begin + size});
    begin += size;
  }
  return ranges;
}

/// All ways to write `total` as an ordered sum of n numbers >= 0.
std::vector<std::vector<int>> divisions(int total, int n) {
  if (n == 1) return {{total}};
  std::vector<std::vector<int>> all;
  for (int first = 0; first <= total; ++first) {
    for (auto rest : divisions(total - first, n - 1)) {
      rest.insert(rest.begin(), first);
      all.push_back(std::move(rest));
    }
  }
  return all;
}

TEST(MicrobatchTree, MaximalSubtreesCoverTheRangeAndCannotBeMerged) {
  for (int begin = 0; begin < 40; ++begin) {
    for (int end = begin; end < 40; ++end) {
      const auto trees = maximal_subtrees({begin, end});
      int covered = begin;
      for (std::size_t i = 0; i < trees.size(); ++i) {
        EXPECT_EQ(trees[i].begin, covered);
        EXPECT_EQ(trees[i].begin % (1 << trees[i].level), 0);
        covered = trees[i].end();
        if (i > 0) {
          EXPECT_FALSE(are_siblings(trees[i - 1], trees[i]));
        }
      }
      EXPECT_EQ(covered, end);
    }
  }
}

TEST(MicrobatchTree, SumHasTheBitsOfTheDefinitionForEverySizeAndCut) {
  constexpr std::size_t kElements = 700;  // more than a block, no multiple of the stride
  for (int m = 1; m <= 17; ++m) {
    const auto expected = reference(m, kElements);
    for (int cut = 0; cut <= m; ++cut) {
      const TreeAccumulator left = filled({0, cut}, kElements);
      const TreeAccumulator right = filled({cut, m}, kElements);
      std::vector<Subtree> trees;
      std::vector<const float*> data;
      for (const TreeAccumulator* part : {&left, &right}) {
        for (std::size_t i = 0; i < part->subtrees().size(); ++i) {
          trees.push_back(part->subtrees()[i]);
          data.push_back(part->sums(i));
        }
      }
      std::vector<float> sum(kElements);
      sum_subtrees(trees, data, sum.data(), kElements);
      ASSERT_TRUE(same_bits(sum, expected)) << m << " microbatches cut at " << cut;
    }
  }
}

TEST(MicrobatchTree, TheOrderMatters) {
  // Guards the other tests: with these gradients a plain left-to-right sum has other bits.
  constexpr std::size_t kElements = 100;
  std::vector<float> sequential(kElements);
  for (std::size_t k = 0; k < kElements; ++k) {
    for (int m = 0; m < 8; ++m) sequential[k] += gradient(m, k);
  }
  EXPECT_FALSE(same_bits(sequential, reference(8, kElements)));
}

TEST(TreeAccumulator, KeepsAtMostLogarithmicallyManyBuffers) {
  for (int size = 1; size <= 70; ++size) {
    const int log2_floor = std::bit_width(static_cast<unsigned>(size)) - 1;
    EXPECT_LE(TreeAccumulator::num_buffers({0, size}), log2_floor + 1) << size;
    for (int begin = 1; begin < 40; ++begin) {
      EXPECT_LE(TreeAccumulator::num_buffers({begin, begin + size}), 2 * log2_floor + 1);
    }
  }
  EXPECT_EQ(TreeAccumulator::num_buffers({3, 3}), 0);
  EXPECT_EQ(TreeAccumulator::num_buffers({0, 8}), 4);
}

TEST(TreeAccumulator, EndsWithTheMaximalSubtreesAndCanBeRestarted) {
  TreeAccumulator accumulator(2, {3, 11});
  for (int round = 0; round < 2; ++round) {
    while (!accumulator.complete()) {
      const auto buffer = accumulator.next();
      buffer[0] = 1;
      buffer[1] = 2;
      accumulator.commit();
    }
    const auto expected = maximal_subtrees({3, 11});
    ASSERT_EQ(accumulator.subtrees().size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(accumulator.subtrees()[i], expected[i]);
      EXPECT_EQ(accumulator.sums(i)[1], 2.0f * (expected[i].end() - expected[i].begin));
    }
    accumulator.restart();
  }
}

TEST(TreeAccumulator, SumsOfTheLastMicrobatchAreThereAsSoonAsAPieceIsSettled) {
  constexpr std::size_t kElements = 100;
  for (const MicrobatchRange range : {MicrobatchRange{0, 1}, {0, 8}, {3, 11}, {4, 7}}) {
    const TreeAccumulator whole = filled(range, kElements);
    TreeAccumulator accumulator(kElements, range);
    for (int m = range.begin; m < range.end; ++m) {
      EXPECT_EQ(accumulator.at_last(), m + 1 == range.end);
      const auto buffer = accumulator.next();
      const auto settle = [&](std::size_t begin, std::size_t end) {
        for (std::size_t k = begin; k < end; ++k) buffer[k] = gradient(m, k);
        accumulator.settle(begin, end);
        if (m + 1 < range.end) return;
        for (std::size_t i = 0; i < whole.subtrees().size(); ++i)
          for (std::size_t k = begin; k < end; ++k)
            ASSERT_EQ(accumulator.sums(i)[k], whole.sums(i)[k]) << i << " " << k;
      };
      settle(60, kElements);
      settle(0, 13);
      settle(13, 60);
      accumulator.commit_settled();
    }
    EXPECT_TRUE(accumulator.complete());
    EXPECT_EQ(accumulator.subtrees().size(), whole.subtrees().size());
  }
}

TEST(TreeReducer, RefusesRangesThatDoNotCoverTheStepOnce) {
  const auto create = [](std::vector<MicrobatchRange> ranges, int m) {
    return TreeReducer::create({.ranges = std::move(ranges), .num_microbatches = m, .index = 0});
  };
  EXPECT_TRUE(create({{0, 2}, {2, 5}}, 5));
  EXPECT_TRUE(create({{2, 5}, {0, 0}, {0, 2}}, 5));
  EXPECT_FALSE(create({{0, 2}, {3, 5}}, 5));
  EXPECT_FALSE(create({{0, 3}, {2, 5}}, 5));
  EXPECT_FALSE(create({{0, 2}, {2, 5}}, 6));
  EXPECT_FALSE(create({{0, 0}}, 0));
}

class TreeReduceInWorldOf : public ::testing::TestWithParam<int> {};

TEST_P(TreeReduceInWorldOf, EveryDivisionGivesTheBitsOfTheDefinition) {
  const int n = GetParam();
  constexpr std::size_t kElements = 1003;
  for (const int m : {1, 3, 6, 8}) {
    if (n == 5 && m == 8) continue;  // 495 divisions; 5 replicas are covered by the smaller m
    const auto expected = reference(m, kElements);
    const auto all = divisions(m, n);
    run_world(n, [&](Communicator& comm) {
      const auto ranks = all_ranks(n);
      const Group group{ranks, comm.rank()};
      const auto parts = even_parts(kElements, n, 16);
      for (const auto& sizes : all) {
        const auto ranges = ranges_of(sizes);
        auto reducer =
            TreeReducer::create({.ranges = ranges, .num_microbatches = m, .index = group.index});
        ASSERT_TRUE(reducer);
        const TreeAccumulator mine = filled(ranges[group.index], kElements);
        std::vector<float> out(kElements, -1);
        const auto status = test::reduce_whole(*reducer, comm, group, 9, mine, parts, out, true);
        ASSERT_TRUE(status) << status.error().message;
        ASSERT_TRUE(same_bits(out, expected));
      }
    });
  }
}

TEST_P(TreeReduceInWorldOf, ReduceScatterWritesOnlyTheOwnPart) {
  const int n = GetParam();
  constexpr std::size_t kElements = 5000;
  constexpr int kMicrobatches = 7;
  const auto expected = reference(kMicrobatches, kElements);
  std::vector<int> sizes(n, kMicrobatches / n);
  sizes[0] += kMicrobatches % n;
  const auto ranges = ranges_of(sizes);
  // Uneven parts, one of them empty.
  std::vector<std::size_t> parts(n + 1, kElements);
  parts[0] = 0;
  for (int i = 1; i < n; ++i) parts[i] = i == 2 ? parts[1] : 100 * i + 7;
  run_world(n, [&](Communicator& comm) {
    const auto ranks = all_ranks(n);
    const Group group{ranks, comm.rank()};
    auto reducer = TreeReducer::create(
        {.ranges = ranges, .num_microbatches = kMicrobatches, .index = group.index});
    ASSERT_TRUE(reducer);
    const TreeAccumulator mine = filled(ranges[group.index], kElements);
    std::vector<float> out(kElements, 1234.5f);
    for (int round = 0; round < 3; ++round) {
      ASSERT_TRUE(test::reduce_whole(*reducer, comm, group, 9, mine, parts, out, false));
      for (std::size_t k = 0; k < kElements; ++k) {
        const bool own = parts[group.index] <= k && k < parts[group.index + 1];
        ASSERT_EQ(out[k], own ? expected[k] : 1234.5f) << k;
      }
    }
  });
}

TEST_P(TreeReduceInWorldOf, ManySegmentsGiveTheSameBits) {
  const int n = GetParam();
  constexpr std::size_t kElements = 60'001;
  constexpr int kMicrobatches = 5;
  const auto expected = reference(kMicrobatches, kElements);
  std::vector<int> sizes(n, 0);
  for (int m = 0; m < kMicrobatches; ++m) ++sizes[m % n];
  const auto ranges = ranges_of(sizes);
  run_world(n, [&](Communicator& comm) {
    const auto ranks = all_ranks(n);
    const Group group{ranks, comm.rank()};
    auto reducer = TreeReducer::create({.ranges = ranges,
                                        .num_microbatches = kMicrobatches,
                                        .index = group.index,
                                        .max_workspace_bytes = 1});
    ASSERT_TRUE(reducer);
    const TreeAccumulator mine = filled(ranges[group.index], kElements);
    std::vector<float> out(kElements);
    const auto status =
        test::reduce_whole(*reducer, comm, group, 9, mine, even_parts(kElements, n, 16), out, true);
    ASSERT_TRUE(status) << status.error().message;
    EXPECT_TRUE(same_bits(out, expected));
  });
}

TEST_P(TreeReduceInWorldOf, SeveralOnTheirWayInLittleWorkspaceGiveTheSameBits) {
  const int n = GetParam();
  constexpr std::size_t kElements = 40'000;
  constexpr std::size_t kPiece = 1000;
  constexpr int kMicrobatches = 7;
  const auto expected = reference(kMicrobatches, kElements);
  std::vector<int> sizes(n, 0);
  for (int m = 0; m < kMicrobatches; ++m) ++sizes[m % n];
  const auto ranges = ranges_of(sizes);
  for (const std::size_t workspace : {std::size_t{1}, std::size_t{500'000}, std::size_t{1} << 30}) {
    run_world(n, [&](Communicator& comm) {
      const auto ranks = all_ranks(n);
      const Group group{ranks, comm.rank()};
      auto reducer = TreeReducer::create({.ranges = ranges,
                                          .num_microbatches = kMicrobatches,
                                          .index = group.index,
                                          .max_workspace_bytes = workspace});
      ASSERT_TRUE(reducer);
      const TreeAccumulator mine = filled(ranges[group.index], kElements);
      std::vector<float> out(kElements);
      // Pieces of different members in no order, some empty; the last reductions are shorter.
      std::vector<TreeReduction> reductions;
      for (std::size_t at = 0; at < kElements;) {
        TreeReduction r{&mine, out, {}, true, 9 + (reductions.size() << 8)};
        for (int m = 0; m < n; ++m) {
          const bool none = n > 1 && (reductions.size() + m) % 3 == 1;
          const std::size_t end = none ? at : std::min(at + kPiece, kElements);
          r.pieces.push_back({at, end});
          at = end;
        }
        reductions.push_back(std::move(r));
      }
      reducer->reserve(reducer->wanted_bytes(reductions), reductions.size());
      for (int round = 0; round < 2; ++round) {
        std::ranges::fill(out, 0.0f);
        for (const TreeReduction& r : reductions) {
          const Status started = reducer->start(comm, group, r);
          ASSERT_TRUE(started) << started.error().message;
        }
        const Status finished = reducer->finish(comm, group);
        ASSERT_TRUE(finished) << finished.error().message;
        ASSERT_TRUE(same_bits(out, expected));
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, TreeReduceInWorldOf, ::testing::Values(1, 2, 3, 4, 5));

}  // namespace
}  // namespace tenax::compute
