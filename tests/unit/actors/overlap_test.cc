// Gradients travel between replicas while the last backward is still computed: what the trace of
// real engines says, and that it changes no bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/support/traced_world.h"

namespace tenax::test {
namespace {

using compute::Overlap;
using compute::TraceEvent;
using compute::TraceKind;

WorldOptions layout(int dp, int pp, int chunks, int zero) {
  WorldOptions o = world_options();
  o.config.layout.data_parallel = dp;
  o.config.layout.pipeline_parallel = pp;
  o.config.layout.virtual_stages = chunks;
  o.config.layout.zero = zero;
  return o;
}

TEST(Overlap, TheFirstBucketIsReducedBeforeTheLastBackwardEnds) {
  for (const int zero : {0, 1}) {
    for (const int pp : {1, 2}) {
      SCOPED_TRACE(testing::Message() << "zero " << zero << " pp " << pp);
      for (const auto& events : traces_of(layout(2, pp, 1, zero), Overlap::kOn)) {
        const ReductionTimes times(events);
        EXPECT_GE(times.num_reductions, 3u) << "a bucket a layer, and embedding or head";
        EXPECT_LT(times.first_reduction, times.last_backward);
      }
    }
  }
}

TEST(Overlap, OffMeansThatReductionsBeginBehindTheLastBackward) {
  for (const auto& events : traces_of(layout(2, 1, 1, 0), Overlap::kOff)) {
    const ReductionTimes times(events);
    EXPECT_GE(times.num_reductions, 5u);
    EXPECT_GE(times.first_reduction, times.last_backward);
  }
}

TEST(Overlap, NeitherItNorTheSizeOfBucketsChangesABit) {
  const TrainedWorld alone = train_world(world_options());
  for (const int zero : {0, 1}) {
    for (const int pp : {1, 2}) {
      for (const Overlap overlap : {Overlap::kOff, Overlap::kOn}) {
        for (const std::size_t bytes :
             {std::size_t{0}, std::size_t{100'000}, std::size_t{1} << 30}) {
          SCOPED_TRACE(testing::Message() << "zero " << zero << " pp " << pp << " bytes " << bytes
                                          << " overlap " << static_cast<int>(overlap));
          WorldOptions o = layout(3, pp, pp, zero);
          o.change_options = [&](compute::EngineOptions& options) {
            options.overlap = overlap;
            options.bucket_bytes = bytes;
          };
          expect_same_bits(train_world(o), alone);
        }
      }
    }
  }
}

}  // namespace
}  // namespace tenax::test
