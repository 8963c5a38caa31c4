// Ways of building a decoder that ranks divide differently; the sizes are grid_model.h's.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "compute/model_options.h"

namespace tenax::test {

struct NamedModel {
  std::string name;
  std::function<void(compute::ModelOptions&)> change;
};

inline std::vector<NamedModel> tiny_decoders() {
  using namespace compute;
  return {
      {"gpt2", [](ModelOptions&) {}},
      {"llama with fewer key heads than ranks",
       [](ModelOptions& o) {
         o.norm = NormKind::kRmsNorm;
         o.positions = PositionKind::kRope;
         o.activation = ActivationKind::kSwiglu;
         o.biases = false;
         o.tied_output = false;
         o.qk_norm = true;
       }},
      {"bloom",
       [](ModelOptions& o) {
         o.positions = PositionKind::kAlibi;
         o.embedding_norm = true;
         o.num_kv_heads = 0;
       }},
      {"palm",
       [](ModelOptions& o) {
         o.num_kv_heads = 1;
         o.parallel_block = true;
         o.activation = ActivationKind::kSwiglu;
         o.z_loss = 0.01;
         o.logit_scale = 0.5;
       }},
      {"post norm", [](ModelOptions& o) { o.norm_placement = NormPlacement::kPost; }},
  };
}

}  // namespace tenax::test
