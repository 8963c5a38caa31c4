// GPT-2's pre-tokenisation: cuts text into the pieces inside which BPE may merge. The pattern of
// its encoder.py,
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// written by hand: one pass, no backtracking. Pure function.
#pragma once

#include <cstddef>
#include <string_view>

namespace tenax::data {

/// Bytes of the first piece of `text`, at least 1; `text` must not be empty.
std::size_t first_piece(std::string_view text);

}  // namespace tenax::data
