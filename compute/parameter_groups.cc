#include "compute/parameter_groups.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

namespace tenax::compute {
namespace {

std::string_view trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(' ');
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(' ') - begin + 1);
}

Error not_a_group(std::string_view text, std::string_view why) {
  return make_error(ErrorCode::kInvalidArgument,
                    fmt::format("\"{}\" is no parameter group: {}; the form is \"PATTERN: "
                                "weight_decay=0, learning_rate_factor=0.5\"",
                                text, why));
}

std::optional<double> number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(value) ||
      value < 0) {
    return std::nullopt;
  }
  return value;
}

}  // namespace

Result<ParameterGroup> parse_parameter_group(std::string_view text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) return not_a_group(text, "it has no colon");
  ParameterGroup group;
  group.pattern = trimmed(text.substr(0, colon));
  if (group.pattern.empty()) return not_a_group(text, "it has no pattern");
  std::string_view rest = text.substr(colon + 1);
  bool says_anything = false;
  while (!trimmed(rest).empty()) {
    const std::size_t comma = rest.find(',');
    const std::string_view setting = trimmed(rest.substr(0, comma));
    rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
    const std::size_t equals = setting.find('=');
    if (equals == std::string_view::npos)
      return not_a_group(text, fmt::format("\"{}\" has no =", setting));
    const std::string_view name = trimmed(setting.substr(0, equals));
    const auto value = number(trimmed(setting.substr(equals + 1)));
    if (!value) return not_a_group(text, fmt::format("\"{}\" is no number of at least 0", setting));
    if (name == "weight_decay") {
      group.weight_decay = *value;
    } else if (name == "learning_rate_factor") {
      group.learning_rate_factor = *value;
    } else {
      return not_a_group(text, fmt::format("\"{}\" is neither weight_decay nor "
                                           "learning_rate_factor",
                                           name));
    }
    says_anything = true;
  }
  if (!says_anything) return not_a_group(text, "it changes nothing");
  return group;
}

bool matches(std::string_view pattern, std::string_view name) {
  // Where the last star was, and the first character that it has not swallowed yet.
  std::size_t star = std::string_view::npos;
  std::size_t resume = 0;
  std::size_t p = 0;
  std::size_t n = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

UpdateRule update_rule(const ParameterSpec& spec, double weight_decay,
                       std::span<const ParameterGroup> groups) {
  UpdateRule rule{spec.decay ? weight_decay : 0, 1};
  for (const ParameterGroup& group : groups) {
    if (!matches(group.pattern, spec.name)) continue;
    if (group.weight_decay) rule.weight_decay = *group.weight_decay;
    rule.learning_rate_factor = group.learning_rate_factor;
    break;
  }
  return rule;
}

}  // namespace tenax::compute
