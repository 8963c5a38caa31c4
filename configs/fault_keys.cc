// Fault injection, for demonstrations and tests. 0 turns each of them off.
#include "configs/fault_keys.h"

namespace tenax::configs {

void bind_faults(Binder& b, FaultsSection& c) {
  constexpr double kMaxSteps = 1e12;
  const auto at_step = [](std::string_view doc) {
    return FieldOptions{.doc = doc, .unit = "step", .range = between(0, kMaxSteps)};
  };
  b.add("faults.poison_batch", c.poison_batch,
        at_step("Fault injection: samples from this step on are bad; 0: off."));
  b.add("faults.poison_num_batches", c.poison_num_batches,
        {.doc = "So many steps' samples are bad.", .unit = "steps", .range = between(1, 1 << 20)});
  b.add_enum("faults.poison_kind", c.poison_kind,
             {{"random_tokens", data::PoisonKind::kRandomTokens},
              {"nan", data::PoisonKind::kNan},
              {"drift", data::PoisonKind::kDrift}},
             {.doc = "Bad samples have random tokens, make the loss NaN, or have more and more "
                     "random tokens."});
  b.add("faults.rank", c.rank,
        {.doc = "The rank whose device the next nine keys make faulty.", .range = at_least(0)});
  b.add("faults.weight_step", c.weight_step,
        at_step("Before this step a bit of one of its weights flips; 0: off."));
  b.add("faults.gradient_step", c.gradient_step,
        at_step("In this step a bit of one of its gradients flips, once; 0: off."));
  b.add(
      "faults.flip_bit", c.flip_bit,
      {.doc = "Which bit flips from 0 to 1; 23 to 30 are the exponent.", .range = between(0, 31)});
  b.add("faults.nan_step", c.nan_step,
        at_step("In this step its loss and gradients are NaN, once; 0: off."));
  b.add("faults.hang_step", c.hang_step, at_step("In this step it computes for ever; 0: off."));
  b.add("faults.hang_generations", c.hang_generations,
        {.doc = "This and the GPU's fault happen in so many of the run's first generations.",
         .unit = "generations",
         .range = between(1, kMaxSteps)});
  b.add("faults.gpu_step", c.gpu_step,
        at_step("In this step its GPU has a fault; 0: off. Needs train.device = \"cuda\"."));
  b.add_enum("faults.gpu_kind", c.gpu_kind,
             {{"hang", GpuFault::kHang},
              {"bad_store", GpuFault::kBadStore},
              {"out_of_memory", GpuFault::kOutOfMemory}},
             {.doc = "A kernel that hangs, a store behind an allocation, or an allocation that is "
                     "refused."});
  b.add("faults.gpu_hang_seconds", c.gpu_hang_seconds,
        {.doc = "After so long the hanging kernel ends by itself.",
         .unit = "s",
         .range = between(0.001, 60)});
  b.add("faults.learning_rate_step", c.learning_rate_step,
        at_step("From this step on the learning rate is wrong; 0: off."));
  b.add("faults.learning_rate_num_steps", c.learning_rate_num_steps,
        {.doc = "For so many steps.", .unit = "steps", .range = between(1, kMaxSteps)});
  b.add("faults.learning_rate_factor", c.learning_rate_factor,
        {.doc = "By this factor.", .range = above(0)});
}

}  // namespace tenax::configs
