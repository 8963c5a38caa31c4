// Keys of section [model], of a run recipe and of a model card. Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "compute/model_options.h"
#include "configs/binder.h"

namespace tenax::configs {

/// Binds "model.<key><suffix>" for everything that a recipe may say of the architecture: all but
/// vocabulary and sequence length, which it says elsewhere.
void bind_model(Binder& b, compute::ModelOptions& c, std::string_view suffix = "");

/// A message of compute::problems() with keys in place of the names of members.
std::string with_model_keys(std::string message, std::string_view sequence_length_key);

}  // namespace tenax::configs
