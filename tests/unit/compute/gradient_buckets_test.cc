// Buckets of gradients: every element is summed by the right member in exactly one of them, and a
// stage says that a part is done only when its gradients are final.
#include "compute/gradient_buckets.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "compute/aligned_buffer.h"
#include "compute/stage_layout.h"
#include "tests/unit/compute/tiny_models.h"

namespace tenax::compute {
namespace {

/// Embedding, two layers and a head whose tied table has a second region.
std::vector<GradientExtent> example() {
  return {{0, 700, 1000}, {1, 400, 700}, {2, 304, 400}, {3, 0, 304}};
}

std::vector<int> times_covered(const std::vector<GradientBucket>& buckets, std::size_t size) {
  std::vector<int> times(size, 0);
  for (const GradientBucket& b : buckets)
    for (const GradientPiece& p : b.pieces)
      for (std::size_t i = p.begin; i < p.end; ++i) ++times[i];
  return times;
}

TEST(GradientBuckets, CoverEveryElementOnceInTheOrderOfABackward) {
  for (const int members : {1, 2, 3, 5}) {
    for (const std::size_t least : {0, 350, 5000}) {
      for (const std::size_t longest : {16, 64, 4096}) {
        SCOPED_TRACE(testing::Message()
                     << members << " members, least " << least << ", longest " << longest);
        BucketOptions o;
        o.num_members = members;
        o.least_floats = least;
        o.max_piece_floats = longest;
        const auto buckets = cut_into_buckets(example(), o);
        EXPECT_EQ(times_covered(buckets, 1000), std::vector<int>(1000, 1));
        int part = 0;
        for (const GradientBucket& b : buckets) {
          EXPECT_LE(part, b.part);
          part = b.part;
          ASSERT_EQ(b.pieces.size(), static_cast<std::size_t>(members));
          for (const GradientPiece& p : b.pieces) {
            EXPECT_LE(p.size(), longest);
            for (const GradientExtent& e : example())
              if (p.begin < static_cast<std::size_t>(e.end) &&
                  static_cast<std::size_t>(e.begin) < p.end) {
                EXPECT_LE(e.part, b.part) << "starts before all of it is final";
              }
          }
        }
      }
    }
  }
}

TEST(GradientBuckets, SmallNeighboursTravelTogetherWhenTheLaterIsFinal) {
  BucketOptions o;
  o.least_floats = 350;
  o.max_piece_floats = 4096;
  const auto buckets = cut_into_buckets(example(), o);
  ASSERT_EQ(buckets.size(), 2u);
  EXPECT_EQ(buckets[0].part, 1);
  EXPECT_EQ(buckets[0].pieces, (std::vector<GradientPiece>{{400, 1000}}));
  EXPECT_EQ(buckets[1].part, 3);
  EXPECT_EQ(buckets[1].pieces, (std::vector<GradientPiece>{{0, 400}}));
}

TEST(GradientBuckets, MembersSumWhatTheirShardsSay) {
  const std::vector<GradientSection> sections = {{0, {0, 100, 300}, {}}, {0, {304, 304, 1000}, {}}};
  BucketOptions o;
  o.num_members = 2;
  o.sections = sections;
  o.max_piece_floats = 128;
  const auto buckets = cut_into_buckets(example(), o);
  std::vector<int> owner(1000, -1);
  for (const GradientBucket& b : buckets)
    for (std::size_t m = 0; m < 2; ++m)
      for (std::size_t i = b.pieces[m].begin; i < b.pieces[m].end; ++i) {
        EXPECT_EQ(owner[i], -1);
        owner[i] = static_cast<int>(m);
      }
  for (std::size_t i = 0; i < 1000; ++i)
    ASSERT_EQ(owner[i], i < 100 ? 0 : i >= 300 && i < 304 ? -1 : 1) << i;
}

/// Copies what a stage calls final.
class Copier final : public BackwardWatcher {
 public:
  Copier(const std::vector<GradientExtent>& order, std::span<const float> gradient)
      : order_(order), gradient_(gradient), copied(gradient.size(), -1.0f) {}
  void part_done(int part) override {
    for (; next_ < order_.size() && order_[next_].part <= part; ++next_)
      for (std::int64_t i = order_[next_].begin; i < order_[next_].end; ++i)
        copied[static_cast<std::size_t>(i)] = gradient_[static_cast<std::size_t>(i)];
    parts.push_back(part);
  }

 private:
  const std::vector<GradientExtent>& order_;
  std::span<const float> gradient_;
  std::size_t next_ = 0;

 public:
  std::vector<float> copied;
  std::vector<int> parts;
};

TEST(BackwardOrder, WhatAStageCallsFinalIsNotAddedToAnyMore) {
  for (const TinyModel& model : tiny_models()) {
    ModelOptions options = model.options;
    options.num_layers = 3;
    const TestBatch batch(options, {2, 9});
    for (const auto& spec : {whole_model(options), StageSpec{0, 2, true, false},
                             StageSpec{1, 3, false, true}, StageSpec{1, 2, false, false}}) {
      SCOPED_TRACE(testing::Message()
                   << model.name << " layers " << spec.first_layer << " to " << spec.end_layer);
      const auto stage = make_stage(options, spec, batch.shape, 1);
      const auto order = lay_out_stage(resolved(options), spec).backward_order;
      std::vector<float> gradient(stage->gradient_size());
      std::vector<float> stream(stage->boundary_size(), 0.5f);
      std::vector<float> out(stage->boundary_size());
      const auto at = [](bool there, std::vector<float>& data) {
        return there ? std::span<float>(data) : std::span<float>();
      };
      stage->forward(0, {batch.tokens, batch.targets}, at(!spec.has_embedding, stream),
                     at(!spec.has_head, out));
      Copier copier(order, gradient);
      stage->backward(0, at(!spec.has_head, stream), at(!spec.has_embedding, out), gradient,
                      &copier);
      EXPECT_EQ(std::memcmp(copier.copied.data(), gradient.data(), gradient.size() * sizeof(float)),
                0);
      EXPECT_EQ(copier.parts.size(),
                static_cast<std::size_t>(spec.end_layer - spec.first_layer + 2));
    }
  }
}

}  // namespace
}  // namespace tenax::compute
