// The trace of real engines: which kernels ran in which layer, and inside which action.
#include <gtest/gtest.h>

#include <map>
#include <utility>
#include <vector>

#include "tests/support/traced_world.h"

namespace tenax::test {
namespace {

using compute::TraceEvent;
using compute::TraceKind;

/// How often each kind occurs, by layer.
std::map<std::pair<TraceKind, int>, int> counts_of(const std::vector<TraceEvent>& events) {
  std::map<std::pair<TraceKind, int>, int> counts;
  for (const TraceEvent& e : events) ++counts[{e.kind, e.index}];
  return counts;
}

bool inside(const TraceEvent& inner, const TraceEvent& outer) {
  return outer.begin <= inner.begin && inner.end <= outer.end;
}

TEST(StepTrace, HasTheKernelsOfEveryLayerInsideTheActionsAndNoneOfEvaluation) {
  WorldOptions o = world_options();
  o.config.layout.pipeline_parallel = 2;
  const auto traces = traces_of(o);
  constexpr int kMicrobatches = 12;
  std::map<int, int> ranks_of_layer;
  for (std::size_t rank = 0; rank < traces.size(); ++rank) {
    SCOPED_TRACE(testing::Message() << "rank " << rank);
    auto counts = counts_of(traces[rank]);
    for (int layer = 0; layer < o.config.model.num_layers; ++layer) {
      if (!counts.contains({TraceKind::kAttention, layer})) continue;
      ++ranks_of_layer[layer];
      // Forward and backward; two norms a layer; up and down, whose gradients are apart too.
      const std::pair<TraceKind, int> expected[] = {
          {TraceKind::kNorm, 4},        {TraceKind::kQkvProducts, 2},
          {TraceKind::kAttention, 2},   {TraceKind::kActivation, 2},
          {TraceKind::kFfnProducts, 4}, {TraceKind::kOutputProduct, 2}};
      for (const auto& [kind, times] : expected)
        EXPECT_EQ((counts[{kind, layer}]), times * kMicrobatches)
            << compute::to_string(kind) << " of layer " << layer;
      EXPECT_EQ((counts[{TraceKind::kAdamw, layer}]), 1);
    }
    EXPECT_EQ((counts[{TraceKind::kEmbedding, -1}]), rank == 0 ? 2 * kMicrobatches : 0);
    EXPECT_EQ((counts[{TraceKind::kCrossEntropy, -1}]), rank == 1 ? kMicrobatches : 0);
    for (const TraceEvent& e : traces[rank]) {
      if (compute::category_of(e.kind) != "kernel" || e.kind == TraceKind::kAdamw) continue;
      int actions = 0;
      for (const TraceEvent& action : traces[rank])
        if (action.kind == TraceKind::kForward || action.kind == TraceKind::kBackward)
          actions += inside(e, action) ? 1 : 0;
      EXPECT_EQ(actions, 1) << compute::to_string(e.kind);
    }
  }
  for (int layer = 0; layer < o.config.model.num_layers; ++layer)
    EXPECT_EQ(ranks_of_layer[layer], 1) << layer;
}

TEST(StepTrace, HasTheCollectivesOfTensorParallelLayers) {
  WorldOptions o = world_options();
  o.config.layout.tensor_parallel = 2;
  for (const auto& events : traces_of(o)) {
    auto counts = counts_of(events);
    EXPECT_GT((counts[{TraceKind::kTensorReduce, -1}]), 0);
    EXPECT_GT((counts[{TraceKind::kTensorGather, -1}]), 0);
    EXPECT_EQ((counts[{TraceKind::kNormSums, -1}]), 1);
  }
}

}  // namespace
}  // namespace tenax::test
