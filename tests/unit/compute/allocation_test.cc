// After create() a stage works in its own memory: training and evaluation call the allocator not
// once.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "compute/adamw.h"
#include "compute/tensor_norm.h"
#include "tests/unit/compute/tiny_models.h"

namespace {

std::atomic<long> num_allocations{0};

void* counted(std::size_t bytes, std::size_t alignment) {
  ++num_allocations;
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  if (void* p = std::aligned_alloc(alignment, rounded == 0 ? alignment : rounded)) return p;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t bytes) { return counted(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return counted(bytes, static_cast<std::size_t>(alignment));
}
// Not inlined: beside a call of new that is not, GCC would take std::free for the wrong partner.
#define TENAX_NOINLINE __attribute__((noinline))
TENAX_NOINLINE void operator delete(void* p) noexcept { std::free(p); }
TENAX_NOINLINE void operator delete(void* p, std::size_t) noexcept { std::free(p); }
TENAX_NOINLINE void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
TENAX_NOINLINE void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  std::free(p);
}

namespace tenax::compute {
namespace {

TEST(StageAllocation, NothingIsAllocatedAfterCreate) {
  for (const TinyModel& model : tiny_models()) {
    const TestBatch batch(model.options, {2, 9});
    const auto stage = make_stage(model.options, whole_model(model.options), batch.shape, 2);
    std::vector<float> gradient(stage->gradient_size());
    std::vector<float> m(stage->values().size()), v(stage->values().size());
    std::vector<float> logits(static_cast<std::size_t>(model.options.vocabulary_size));
    const long before = num_allocations;
    stage->forward(0, {batch.tokens, batch.targets}, {}, {});
    stage->forward(1, {batch.tokens, batch.targets}, {}, {});
    stage->backward(0, {}, {}, gradient);
    stage->backward(1, {}, {}, gradient);
    stage->evaluate({batch.tokens, batch.targets}, {}, {});
    stage->next_token_logits(
        batch.tokens.size() > 9 ? std::span(batch.tokens).first(9) : std::span(batch.tokens),
        logits);
    const auto values = stage->values();
    adamw_update({}, {1, 1e-3, sum_of_squares(gradient)},
                 {values, std::span<const float>(gradient).first(values.size()), m, v, true});
    EXPECT_EQ(num_allocations - before, 0) << model.name;
  }
}

}  // namespace
}  // namespace tenax::compute
