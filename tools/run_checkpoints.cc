#include "tools/run_checkpoints.h"

#include <fmt/format.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "actors/run_directory.h"

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

checkpoint::HolderInfo this_process(std::uint64_t term, Time now) {
  char host[256] = "localhost";
  ::gethostname(host, sizeof host - 1);
  return {host, ::getpid(), term, now};
}

Result<PinnedCheckpoint> open_checkpoint(const std::filesystem::path& run_dir, std::int64_t step) {
  TENAX_TRY([[maybe_unused]] const auto identity, actors::RunDirectory(run_dir).identity());
  PinnedCheckpoint out;
  std::uint64_t id = 0;
  {
    TENAX_TRY(const auto store, checkpoint::StoreReader::open_read_only(run_dir.string()));
    TENAX_TRY(const checkpoint::Manifest found, find_checkpoint(*store, step));
    id = found.checkpoint_id;
    auto pin = store->pin(id);
    if (!pin && pin.error().code != ErrorCode::kPermission) return pin.error();
    if (pin) out.pin = *std::move(pin);
  }
  // Whether the pin came in time only a look after it can tell.
  TENAX_TRY(out.store, checkpoint::StoreReader::open_read_only(run_dir.string()));
  TENAX_TRY(out.manifest, out.store->manifest(id));
  return out;
}

}  // namespace tenax::tools
