// Which window of tokens a sample is: a pure function of (seed, absolute position). It knows
// neither the world size nor the step; data/position_map.h says which positions a step takes.
// Random access in O(1), no state to checkpoint.
#pragma once

#include <cstdint>

namespace tenax::data {

/// Windows of `sequence_length` targets in a file of `num_tokens`; window w reads tokens [w*T, w*T
/// + T], of which the first T are inputs and the last T are targets. 0 if not even one fits.
std::int64_t count_windows(std::int64_t num_tokens, std::int64_t sequence_length);

/// The window trained at `position` >= 0. Positions [e*n, (e+1)*n), with n = num_windows >= 1, are
/// epoch e: each window occurs there exactly once, in an order of its own for every epoch.
std::int64_t sample_window(std::uint64_t seed, std::int64_t position, std::int64_t num_windows);

}  // namespace tenax::data
