#include "tools/run_checkpoints.h"

#include <fmt/format.h>

#include <string>
#include <utility>

namespace tenax::tools {

Result<std::vector<checkpoint::Manifest>> list_checkpoints(const checkpoint::StoreView& store) {
  TENAX_TRY(const auto entries, store.manifests());
  std::vector<checkpoint::Manifest> out;
  for (const checkpoint::ManifestEntry& e : entries) {
    if (!e.manifest)
      return e.manifest.error().within(fmt::format("checkpoint {}", e.checkpoint_id));
    out.push_back(*e.manifest);
  }
  return out;
}

Result<checkpoint::Manifest> find_checkpoint(const checkpoint::StoreView& store,
                                             std::int64_t step) {
  TENAX_TRY(auto manifests, list_checkpoints(store));
  std::string steps;
  for (auto it = manifests.rbegin(); it != manifests.rend(); ++it) {
    if (step < 0 || it->step == step) return std::move(*it);
    steps += fmt::format("{}{}", steps.empty() ? "" : ", ", it->step);
  }
  if (steps.empty()) return make_error(ErrorCode::kNotFound, "the run has no committed checkpoint");
  return make_error(ErrorCode::kNotFound,
                    fmt::format("there is no checkpoint of step {}; there are: {}", step, steps));
}

}  // namespace tenax::tools
