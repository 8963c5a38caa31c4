#include "configs/binder.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <type_traits>

#include "common/check.h"
#include "configs/duration_text.h"
#include "configs/nearest.h"

namespace tenax::configs {

namespace {

std::string number_text(double x) {
  char buffer[40];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, x);
  TENAX_CHECK(error == std::errc());
  return {buffer, end};
}

std::string toml_text(double x) {
  std::string text = number_text(x);
  // Without a point or an exponent TOML would read an integer.
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string toml_text(std::string_view s) {
  std::string text = "\"";
  for (const char c : s) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      text += '\\';
      text += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      text += fmt::format("\\u{:04X}", byte);
    } else {
      text += c;
    }
  }
  return text + '"';
}

std::string bound_text(double bound, bool is_duration) {
  return is_duration ? format_duration(from_seconds(bound)) : number_text(bound);
}

std::string range_text(const Range& range, bool is_duration) {
  const bool has_low = std::isfinite(range.low);
  const bool has_high = std::isfinite(range.high);
  const std::string low = has_low ? bound_text(range.low, is_duration) : "";
  const std::string high = has_high ? bound_text(range.high, is_duration) : "";
  if (has_low && has_high) {
    return fmt::format("{} {} and {} {}", range.low_open ? "above" : "at least", low,
                       range.high_open ? "below" : "at most", high);
  }
  if (has_low) return fmt::format("{} {}", range.low_open ? "above" : "at least", low);
  if (has_high) return fmt::format("{} {}", range.high_open ? "below" : "at most", high);
  return "";
}

}  // namespace

bool Range::contains(double x) const {
  return std::isfinite(x) && (low_open ? x > low : x >= low) && (high_open ? x < high : x <= high);
}

void Binder::add(std::string key, bool& m, FieldOptions o) { add_field(std::move(key), &m, o); }
void Binder::add(std::string key, std::int32_t& m, FieldOptions o) {
  add_field(std::move(key), &m, o);
}
void Binder::add(std::string key, std::int64_t& m, FieldOptions o) {
  add_field(std::move(key), &m, o);
}
void Binder::add(std::string key, double& m, FieldOptions o) { add_field(std::move(key), &m, o); }
void Binder::add(std::string key, std::string& m, FieldOptions o) {
  add_field(std::move(key), &m, o);
}
void Binder::add(std::string key, std::vector<std::string>& m, FieldOptions o) {
  add_field(std::move(key), &m, o);
}
void Binder::add(std::string key, Duration& m, FieldOptions o) { add_field(std::move(key), &m, o); }

void Binder::add_field(std::string key, Target target, FieldOptions options) {
  const auto at = std::lower_bound(fields_.begin(), fields_.end(), key,
                                   [](const Field& f, const std::string& k) { return f.key < k; });
  TENAX_CHECK(at == fields_.end() || at->key != key);
  fields_.insert(at, Field{std::move(key), std::move(target), options, false});
}

const Binder::Field* Binder::find(std::string_view key) const {
  const auto at = std::lower_bound(fields_.begin(), fields_.end(), key,
                                   [](const Field& f, std::string_view k) { return f.key < k; });
  return at != fields_.end() && at->key == key ? &*at : nullptr;
}

bool Binder::has_section(std::string_view section) const {
  const std::vector<std::string> all = sections();
  return std::find(all.begin(), all.end(), section) != all.end();
}

std::vector<std::string> Binder::keys() const {
  std::vector<std::string> out;
  for (const Field& field : fields_) out.push_back(field.key);
  return out;
}

std::vector<std::string> Binder::sections() const {
  std::vector<std::string> out;
  for (const Field& field : fields_) {
    for (std::size_t dot = field.key.find('.'); dot != std::string::npos;
         dot = field.key.find('.', dot + 1)) {
      const std::string section = field.key.substr(0, dot);
      if (std::find(out.begin(), out.end(), section) == out.end()) out.push_back(section);
    }
  }
  return out;
}

bool Binder::is_given(std::string_view key) const {
  const Field* field = find(key);
  TENAX_CHECK(field != nullptr);
  return field->is_given;
}

bool Binder::takes_words(std::string_view key) const {
  const Field* field = find(key);
  TENAX_CHECK(field != nullptr);
  return std::holds_alternative<std::string*>(field->target) ||
         std::holds_alternative<std::vector<std::string>*>(field->target) ||
         std::holds_alternative<Duration*>(field->target) ||
         std::holds_alternative<Choice>(field->target);
}

bool Binder::takes_list(std::string_view key) const {
  const Field* field = find(key);
  TENAX_CHECK(field != nullptr);
  return std::holds_alternative<std::vector<std::string>*>(field->target);
}

std::optional<std::string> Binder::assign(std::string_view key, const RawValue& raw) {
  const Field* field = find(key);
  TENAX_CHECK(field != nullptr);
  std::optional<std::string> problem = take(*field, raw);
  if (!problem) fields_[static_cast<std::size_t>(field - fields_.data())].is_given = true;
  return problem;
}

std::optional<std::string> Binder::take(const Field& field, const RawValue& raw) {
  const std::string& key = field.key;
  const Range& range = field.options.range;
  const auto wrong_type = [&](std::string_view expected) {
    return fmt::format("{}: expected {}, got {}", key, expected, raw.description);
  };
  const auto out_of_range = [&](std::string_view shown, bool is_duration) {
    const std::string allowed = range_text(range, is_duration);
    return fmt::format("{} is {}, must be {}", key, shown, allowed.empty() ? "finite" : allowed);
  };

  return std::visit(
      [&](const auto& target) -> std::optional<std::string> {
        using T = std::decay_t<decltype(target)>;
        if constexpr (std::is_same_v<T, std::int64_t*> || std::is_same_v<T, std::int32_t*>) {
          using Integer = std::remove_pointer_t<T>;
          const auto* value = std::get_if<std::int64_t>(&raw.value);
          if (value == nullptr) return wrong_type("an integer");
          if (!range.contains(static_cast<double>(*value))) {
            return out_of_range(fmt::to_string(*value), false);
          }
          if (!std::in_range<Integer>(*value)) {
            return fmt::format("{} is {}, must be at most {}", key, *value,
                               std::numeric_limits<Integer>::max());
          }
          *target = static_cast<Integer>(*value);
        } else if constexpr (std::is_same_v<T, double*>) {
          double number = 0;
          if (const auto* real = std::get_if<double>(&raw.value)) {
            number = *real;
          } else if (const auto* integer = std::get_if<std::int64_t>(&raw.value)) {
            number = static_cast<double>(*integer);
          } else {
            return wrong_type("a number");
          }
          if (!range.contains(number)) return out_of_range(number_text(number), false);
          *target = number;
        } else if constexpr (std::is_same_v<T, Duration*>) {
          const auto* text = std::get_if<std::string>(&raw.value);
          const auto duration = text != nullptr ? parse_duration(*text) : std::nullopt;
          if (!duration) return wrong_type("a duration such as \"250ms\", \"3s\" or \"10min\"");
          if (!range.contains(to_seconds(*duration))) {
            return out_of_range(format_duration(*duration), true);
          }
          *target = *duration;
        } else if constexpr (std::is_same_v<T, Choice>) {
          const auto* name = std::get_if<std::string>(&raw.value);
          const auto at = name == nullptr
                              ? target.names.end()
                              : std::find(target.names.begin(), target.names.end(), *name);
          if (at == target.names.end()) {
            const auto near = name == nullptr ? std::nullopt : nearest_word(*name, target.names);
            return wrong_type(fmt::format("one of \"{}\"", fmt::join(target.names, "\", \""))) +
                   (near ? fmt::format("; did you mean \"{}\"?", *near) : "");
          }
          target.set(static_cast<std::size_t>(at - target.names.begin()));
        } else {
          using Exact = std::remove_pointer_t<T>;
          const auto* value = std::get_if<Exact>(&raw.value);
          if (value == nullptr) {
            return wrong_type(std::is_same_v<Exact, bool>          ? "true or false"
                              : std::is_same_v<Exact, std::string> ? "a string"
                                                                   : "a list of strings");
          }
          *target = *value;
        }
        return std::nullopt;
      },
      field.target);
}

std::string Binder::type_of(const Field& field) {
  static constexpr const char* kNames[] = {"boolean", "integer",         "integer", "number",
                                           "string",  "list of strings", "duration"};
  if (const auto* choice = std::get_if<Choice>(&field.target)) {
    return fmt::format("{}", fmt::join(choice->names, "|"));
  }
  return kNames[field.target.index()];
}

std::string Binder::value_of(const Field& field) {
  return std::visit(
      [](const auto& target) -> std::string {
        using T = std::decay_t<decltype(target)>;
        if constexpr (std::is_same_v<T, Choice>) {
          const std::size_t i = target.get();
          TENAX_CHECK(i < target.names.size());
          return toml_text(target.names[i]);
        } else if constexpr (std::is_same_v<T, Duration*>) {
          return toml_text(format_duration(*target));
        } else if constexpr (std::is_same_v<T, double*> || std::is_same_v<T, std::string*>) {
          return toml_text(*target);
        } else if constexpr (std::is_same_v<T, std::vector<std::string>*>) {
          std::vector<std::string> quoted;
          for (const std::string& s : *target) quoted.push_back(toml_text(s));
          return fmt::format("[{}]", fmt::join(quoted, ", "));
        } else {
          return fmt::to_string(*target);
        }
      },
      field.target);
}

std::vector<KeyInfo> Binder::list() const {
  std::vector<KeyInfo> out;
  for (const Field& field : fields_) {
    const bool is_duration = std::holds_alternative<Duration*>(field.target);
    out.push_back({field.key, type_of(field), value_of(field), std::string(field.options.unit),
                   range_text(field.options.range, is_duration), std::string(field.options.doc),
                   field.options.changeable});
  }
  return out;
}

std::string Binder::canonical_text() const {
  std::string text;
  for (const Field& field : fields_) text += field.key + " = " + value_of(field) + "\n";
  return text;
}

}  // namespace tenax::configs
