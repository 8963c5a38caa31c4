// Takes a slot's contents back from the buddy that holds a copy. Blocks; for the engine's thread
// while it restores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "actors/run_directory.h"
#include "common/clock.h"
#include "common/result.h"
#include "wire/bulk_message.h"

namespace tenax::actors {

struct FetchCopyOptions {
  std::string endpoint;  ///< of the buddy's bulk socket
  RunIdentity identity;
  wire::SlotId id;
  std::string name;  ///< of the caller, unique among those that fetch at the same time
  Duration timeout = std::chrono::seconds(5);  ///< without an answer
};

/// Fills `parts`, one after the other, with the copy's payload. kNotFound: the buddy has no such
/// copy, or of another size; kTimeout: it does not answer. The bytes are not checked here: the
/// manifest's hashes judge them. After an error `parts` are undefined.
Status fetch_copy(const FetchCopyOptions& options, std::span<const std::span<std::byte>> parts);

}  // namespace tenax::actors
