// What a model that knows only the frequency of tokens would lose: the baseline that a trained
// model must beat.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/token_file.h"

namespace tenax::data {

/// How often each token of the vocabulary occurs.
std::vector<std::int64_t> count_tokens(const TokenFile& file);

/// Cross entropy in nats a token of text with `heldout_counts` under p(token) = (count + 1) /
/// (total + vocabulary) of `train_counts` (Laplace's rule). Both have one element a token of the
/// vocabulary; NaN if nothing is held out.
double unigram_cross_entropy(std::span<const std::int64_t> train_counts,
                             std::span<const std::int64_t> heldout_counts);

/// ln(vocabulary_size): a model that knows nothing.
double uniform_cross_entropy(std::int64_t vocabulary_size);

}  // namespace tenax::data
