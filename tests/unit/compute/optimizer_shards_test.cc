#include "compute/optimizer_shards.h"

#include <gtest/gtest.h>

#include "compute/stage_layout.h"
#include "compute/tensor_norm.h"

namespace tenax::compute {
namespace {

ModelOptions model() {
  ModelOptions o;
  o.vocabulary_size = 257;
  o.width = 60;
  o.num_layers = 3;
  o.num_heads = 3;
  return resolved(o);
}

std::vector<StageParameter> first_stage() {
  return lay_out_stage(model(), {0, 1, true, false}).parameters;
}
std::vector<StageParameter> last_stage() {
  return lay_out_stage(model(), {1, 3, false, true}).parameters;
}
std::vector<StageParameter> both_ends() {
  return lay_out_stage(model(), {0, 3, true, true}).parameters;
}

TEST(OptimizerShards, PiecesOfAllMembersAreEveryElementOnce) {
  for (const auto& parameters : {first_stage(), last_stage(), both_ends()}) {
    for (int n = 1; n <= 7; ++n) {
      const OptimizerShards shards = shard_optimizer(parameters, n);
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        std::int64_t next = 0;
        for (const auto& pieces : shards.pieces) {
          for (const MomentPiece& piece : pieces) {
            if (piece.parameter != i) continue;
            EXPECT_EQ(piece.begin, next);
            EXPECT_EQ(piece.begin % static_cast<std::int64_t>(kNormChunk), 0);
            next = piece.end;
          }
        }
        EXPECT_EQ(next, parameters[i].size) << parameters[i].spec.name << " of " << n;
      }
    }
  }
}

TEST(OptimizerShards, NoMemberHoldsMoreThanItsShareAndAChunkOfEachSection) {
  const auto parameters = both_ends();
  std::int64_t total = 0;
  for (const StageParameter& p : parameters) total += p.size;
  for (int n = 1; n <= 7; ++n) {
    for (const auto& pieces : shard_optimizer(parameters, n).pieces) {
      std::int64_t held = 0;
      for (const MomentPiece& piece : pieces) held += piece.end - piece.begin;
      EXPECT_LE(held, total / n + 2 * static_cast<std::int64_t>(kNormChunk));
    }
  }
}

TEST(OptimizerShards, BothStagesOfATiedEmbeddingCutItAlike) {
  const auto piece_of_token = [](const std::vector<MomentPiece>& pieces) {
    const bool some = !pieces.empty() && pieces.front().parameter == 0;
    return some ? std::pair(pieces.front().begin, pieces.front().end)
                : std::pair(std::int64_t{0}, std::int64_t{0});
  };
  for (int n = 1; n <= 7; ++n) {
    const OptimizerShards first = shard_optimizer(first_stage(), n);
    const OptimizerShards last = shard_optimizer(last_stage(), n);
    for (std::size_t member = 0; member < first.pieces.size(); ++member)
      EXPECT_EQ(piece_of_token(first.pieces[member]), piece_of_token(last.pieces[member]));
  }
}

TEST(OptimizerShards, TheSecondPartOfATiedEmbeddingIsCutAsItsFirst) {
  const auto parameters = both_ends();
  const OptimizerShards shards = shard_optimizer(parameters, 3);
  const GradientSection& first = shards.sections.front();
  const GradientSection& second = shards.sections.back();
  EXPECT_TRUE(second.norm_cuts.empty());
  for (std::size_t i = 0; i < first.cuts.size(); ++i) {
    EXPECT_EQ(second.cuts[i] - static_cast<std::size_t>(parameters[0].gradients[1].offset),
              first.cuts[i] - static_cast<std::size_t>(parameters[0].offset));
  }
}

TEST(OptimizerShards, OfOneMemberLieAsTheValuesDo) {
  const auto parameters = both_ends();
  const OptimizerShards shards = shard_optimizer(parameters, 1);
  ASSERT_EQ(shards.pieces[0].size(), parameters.size());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    EXPECT_EQ(shards.pieces[0][i].offset, parameters[i].offset);
    EXPECT_EQ(shards.pieces[0][i].end, parameters[i].size);
  }
}

}  // namespace
}  // namespace tenax::compute
