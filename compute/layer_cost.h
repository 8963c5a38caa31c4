// How the work of a step divides over the parts of a model: what a pipeline is cut by. Pure.
#pragma once

#include "compute/model_options.h"

namespace tenax::compute {

/// Multiply-adds of a token's forward pass through one layer: projections, feed-forward, and
/// attention over half the sequence, as the causal mask leaves it. Backward takes twice as many.
double layer_products(const ModelOptions& options, int sequence_length);
/// The same of the head: the logits. (Norms, lookups and activations are small beside products.)
double head_products(const ModelOptions& options);

}  // namespace tenax::compute
