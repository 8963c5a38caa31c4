// Groups of tensors that the optimizer treats in another way: the first group whose pattern fits a
// tensor's name decides. Value types, pure functions.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "compute/parameters.h"

namespace tenax::compute {

/// "embedding.*: weight_decay=0, learning_rate_factor=0.5". In a pattern * stands for any
/// characters, also dots.
struct ParameterGroup {
  std::string pattern;
  std::optional<double> weight_decay;  ///< none: what the tensor has without groups
  double learning_rate_factor = 1;     ///< multiplies the schedule's rate

  bool operator==(const ParameterGroup&) const = default;
};

/// kInvalidArgument with the reason and the form.
Result<ParameterGroup> parse_parameter_group(std::string_view text);

bool matches(std::string_view pattern, std::string_view name);

/// How a tensor is updated.
struct UpdateRule {
  double weight_decay = 0;
  double learning_rate_factor = 1;

  bool operator==(const UpdateRule&) const = default;
};

/// Without a group matrices have `weight_decay` and everything else none.
UpdateRule update_rule(const ParameterSpec& spec, double weight_decay,
                       std::span<const ParameterGroup> groups);

}  // namespace tenax::compute
