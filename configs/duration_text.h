// Durations as people write them: "250ms", "3s", "10min", "1.5h". Pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "common/clock.h"

namespace tenax::configs {

/// A number, not negative, and one of ns, us, ms, s, min, h, without a space. Nothing for any other
/// text, and for durations beyond 100 years.
std::optional<Duration> parse_duration(std::string_view text);

/// The shortest text with a whole number that parse_duration() turns into `d` again; 0 is "0s".
std::string format_duration(Duration d);

}  // namespace tenax::configs
