// The seam through which tests reach the save path: a callback before each named step.
#pragma once

#include <array>
#include <functional>
#include <string_view>

#include "common/result.h"

namespace tenax::checkpoint {

/// Called with the step's name before it is done. An error stops the operation as if the step had
/// failed that way; ending the process leaves what a crash there would leave. Empty in production.
using StepHook = std::function<Status(std::string_view step)>;

/// The steps in the order of a checkpoint's life.
inline constexpr std::array<std::string_view, 13> kSaveSteps = {
    "shard.open",       "shard.put",       "shard.sync",  "shard.done",    "commit.ingest",
    "commit.ingested",  "commit.manifest", "commit.done", "journal.write", "remove.withdraw",
    "remove.withdrawn", "remove.files",    "remove.done",
};

/// Calls `hook` if there is one.
inline Status reach(const StepHook& hook, std::string_view step) {
  if (!hook) return {};
  return hook(step);
}

}  // namespace tenax::checkpoint
