// Which errors are trouble with a rank's GPU, and of what kind. Pure.
#pragma once

#include <optional>

#include "common/result.h"
#include "common/run_types.h"

namespace tenax::actors {

/// Nothing where the error is about something else, or where what was under way was ended on
/// purpose.
std::optional<DeviceTrouble> trouble_of(const Error& error);

}  // namespace tenax::actors
