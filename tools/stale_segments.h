// Shared memory that killed runs left behind.
#pragma once

#include <string>

namespace tenax::tools {

/// Unlinks the slot segments of every run of this user of which no process lives on this host, but
/// those of `keep_run_id`. Returns how many went.
int sweep_stale_segments(const std::string& keep_run_id);

}  // namespace tenax::tools
