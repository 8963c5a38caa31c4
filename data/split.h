// Which part of a corpus is held out. Pure function of the documents' lengths, their order and the
// seed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tenax::data {

struct SplitOptions {
  double heldout_fraction = 0.05;  ///< in [0, 1)
  std::uint64_t seed = 0;
};

/// For each document, how many of its first tokens are trained; the rest is held out. Whole
/// documents are drawn at random until the fraction is reached, at most a tenth above it. If that
/// ends a tenth below it, because the others are too long, the tail of the longest document is held
/// out as well.
std::vector<std::int64_t> split_documents(std::span<const std::int64_t> num_tokens,
                                          const SplitOptions& options);

}  // namespace tenax::data
