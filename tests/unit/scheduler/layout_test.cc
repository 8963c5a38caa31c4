#include "scheduler/layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

namespace tenax::scheduler {
namespace {

TEST(Layout, RanksAndCoordinatesAreInverse) {
  for (int dp = 1; dp <= 4; ++dp) {
    for (int tp = 1; tp <= 3; ++tp) {
      for (int pp = 1; pp <= 4; ++pp) {
        const Degrees d{dp, tp, pp};
        for (int rank = 0; rank < d.world_size(); ++rank) {
          const Coordinates c = coordinates_of(d, rank);
          EXPECT_EQ(rank_of(d, c), rank);
          EXPECT_LT(c.dp, dp);
          EXPECT_LT(c.tp, tp);
          EXPECT_LT(c.pp, pp);
          const auto replicas = data_parallel_group(d, rank);
          ASSERT_EQ(replicas.size(), static_cast<std::size_t>(dp));
          EXPECT_EQ(replicas[c.dp], rank);
          const auto stages = pipeline_group(d, rank);
          ASSERT_EQ(stages.size(), static_cast<std::size_t>(pp));
          EXPECT_EQ(stages[c.pp], rank);
          for (const int other : replicas) {
            EXPECT_EQ(coordinates_of(d, other).pp, c.pp);
            EXPECT_EQ(coordinates_of(d, other).tp, c.tp);
          }
        }
      }
    }
  }
}

TEST(Layout, LayersAreSplitInOrderAndEvenlyAndTheOuterStagesGetTheExtraOnesLast) {
  for (int stages = 1; stages <= 6; ++stages) {
    for (int layers = stages; layers <= 25; ++layers) {
      const auto ranges = split_layers(layers, stages);
      ASSERT_EQ(ranges.size(), static_cast<std::size_t>(stages));
      int at = 0;
      int least = layers;
      int most = 0;
      for (const LayerRange& r : ranges) {
        EXPECT_EQ(r.first, at);
        at = r.end;
        least = std::min(least, r.end - r.first);
        most = std::max(most, r.end - r.first);
      }
      EXPECT_EQ(at, layers);
      EXPECT_LE(most - least, 1);
    }
  }
  EXPECT_EQ(split_layers(10, 4), (std::vector<LayerRange>{{0, 2}, {2, 5}, {5, 8}, {8, 10}}));
  EXPECT_EQ(split_layers(11, 4), (std::vector<LayerRange>{{0, 3}, {3, 6}, {6, 9}, {9, 11}}));
  EXPECT_EQ(split_layers(3, 2), (std::vector<LayerRange>{{0, 2}, {2, 3}}));
}

TEST(Layout, NoOtherSplitHasACheaperSlowestStage) {
  const auto slowest = [](const std::vector<int>& sizes, const EndCosts& ends) {
    double most = 0;
    for (std::size_t s = 0; s < sizes.size(); ++s) {
      most = std::max(
          most, sizes[s] + (s == 0 ? ends.embedding : 0) + (s + 1 == sizes.size() ? ends.head : 0));
    }
    return most;
  };
  for (const EndCosts ends :
       {EndCosts{0, 0}, EndCosts{0.3, 0.7}, EndCosts{0, 5.4}, EndCosts{2, 1}}) {
    for (int stages = 1; stages <= 4; ++stages) {
      for (int layers = stages; layers <= 9; ++layers) {
        std::vector<int> mine;
        for (const LayerRange& r : split_layers(layers, stages, ends))
          mine.push_back(r.end - r.first);
        // Every way to cut them.
        std::vector<int> sizes(static_cast<std::size_t>(stages));
        double best = 1e9;
        const std::function<void(std::size_t, int)> cut = [&](std::size_t s, int rest) {
          if (s + 1 == sizes.size()) {
            sizes[s] = rest;
            if (rest > 0) best = std::min(best, slowest(sizes, ends));
            return;
          }
          for (sizes[s] = 1; sizes[s] < rest; ++sizes[s]) cut(s + 1, rest - sizes[s]);
        };
        cut(0, layers);
        EXPECT_DOUBLE_EQ(slowest(mine, ends), best) << layers << " layers, " << stages << " stages";
      }
    }
  }
}

TEST(Layout, AHeadThatCostsAsMuchAsFiveLayersLeavesTheLastStageWithFewerOfThem) {
  // GPT-2 124M: twelve layers, and logits over 50257 tokens.
  EXPECT_EQ(split_layers(12, 4, {0, 5.4}),
            (std::vector<LayerRange>{{0, 3}, {3, 7}, {7, 11}, {11, 12}}));
}

TEST(Layout, ChunksOfARankShareWhatTheRankCanBear) {
  // Two ranks of three chunks: the head is worth nearly five layers of the second rank.
  const auto ranges = split_layers(12, 6, {0, 4.9}, 3);
  int first_rank = 0;
  for (std::size_t s = 0; s < ranges.size(); s += 2) first_rank += ranges[s].end - ranges[s].first;
  EXPECT_EQ(first_rank, 8);
  EXPECT_EQ(ranges.back(), (LayerRange{11, 12}));
}

TEST(Layout, EvenSharesCoverEverythingOnce) {
  for (std::int64_t total = 0; total <= 20; ++total) {
    for (int parts = 1; parts <= 7; ++parts) {
      std::int64_t at = 0;
      for (int i = 0; i < parts; ++i) {
        const IndexRange r = even_share(total, parts, i);
        EXPECT_EQ(r.begin, at);
        EXPECT_GE(r.end - r.begin, total / parts);
        EXPECT_LE(r.end - r.begin, total / parts + 1);
        at = r.end;
      }
      EXPECT_EQ(at, total);
    }
  }
}

}  // namespace
}  // namespace tenax::scheduler
