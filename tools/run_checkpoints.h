// Finding a checkpoint of a run by its step.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "checkpoint/holder.h"
#include "checkpoint/manifest.h"
#include "checkpoint/pin.h"
#include "checkpoint/store_reader.h"
#include "checkpoint/store_view.h"
#include "common/result.h"

namespace tenax::tools {

/// The committed checkpoints, by rising id; manifests that cannot be read are errors of the call.
Result<std::vector<checkpoint::Manifest>> list_checkpoints(const checkpoint::StoreView& store);

/// The checkpoint of `step` (the newest id, if branches share the step), or the newest of all for
/// -1. kNotFound lists what there is.
Result<checkpoint::Manifest> find_checkpoint(const checkpoint::StoreView& store, std::int64_t step);

/// For a command that opens the store as its owner.
checkpoint::HolderInfo this_process(std::uint64_t term, Time now);

/// A checkpoint that is being read while its owner may be alive.
struct PinnedCheckpoint {
  std::unique_ptr<checkpoint::StoreReader> store;
  std::optional<checkpoint::Pin> pin;  ///< nothing where this user may not write pins
  checkpoint::Manifest manifest;
};

/// Opens a run's store and holds the checkpoint of `step` (find_checkpoint()) until the result
/// dies. kNotFound if `run_dir` is no run.
Result<PinnedCheckpoint> open_checkpoint(const std::filesystem::path& run_dir, std::int64_t step);

}  // namespace tenax::tools
