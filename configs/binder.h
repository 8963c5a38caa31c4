// A table from dotted keys to the members of one configuration object: what --help lists, what a
// recipe may contain, what is checked, what the canonical text and its digest are made of. Knows no
// TOML; configs/toml_source.h reads it. Confined to one thread; holds references to the bound
// members, which must outlive it.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "common/clock.h"
#include "common/hash.h"

namespace tenax::configs {

/// Allowed numbers; of a duration, seconds.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = false;   ///< low itself is not allowed
  bool high_open = false;  ///< high itself is not allowed

  bool contains(double x) const;
};
constexpr Range at_least(double low) { return {.low = low}; }
constexpr Range above(double low) { return {.low = low, .low_open = true}; }
constexpr Range between(double low, double high) { return {.low = low, .high = high}; }
/// (low, high]
constexpr Range above_to(double low, double high) {
  return {.low = low, .high = high, .low_open = true};
}
/// [low, high)
constexpr Range from_to_below(double low, double high) {
  return {.low = low, .high = high, .high_open = true};
}

/// Whether `--resume --set KEY=...` may change a key of a run that has begun.
enum class Changeable { kNo, kYes };

struct FieldOptions {
  std::string_view doc;  ///< one line
  std::string_view unit = "";
  Range range = {};
  Changeable changeable = Changeable::kNo;
};

/// A value as read, before it is known what the key expects. `monostate` stands for what no key
/// takes (dates, tables, mixed arrays).
struct RawValue {
  std::variant<std::monostate, bool, std::int64_t, double, std::string, std::vector<std::string>>
      value;
  std::string description;  ///< for messages: "integer 3", "string \"x\"", "table"
};

/// A row of the table as text, for listings.
struct KeyInfo {
  std::string key;
  std::string
      type;  ///< "integer", "number", "boolean", "string", "list of strings", "duration", "a|b|c"
  std::string value;  ///< as TOML text
  std::string unit;
  std::string range;  ///< "at least 1"; empty if any
  std::string doc;
  Changeable changeable = Changeable::kNo;
};

class Binder {
 public:
  void add(std::string key, bool& member, FieldOptions options);
  void add(std::string key, std::int32_t& member, FieldOptions options);
  void add(std::string key, std::int64_t& member, FieldOptions options);
  void add(std::string key, double& member, FieldOptions options);
  void add(std::string key, std::string& member, FieldOptions options);
  void add(std::string key, std::vector<std::string>& member, FieldOptions options);
  void add(std::string key, Duration& member, FieldOptions options);

  template <class E>
  using EnumNames = std::vector<std::pair<std::string, E>>;
  /// `names` must have every value of E that occurs, once.
  template <class E>
  void add_enum(std::string key, E& member, const EnumNames<E>& names, FieldOptions options) {
    Choice choice;
    std::vector<E> values;
    for (const auto& [name, value] : names) {
      choice.names.push_back(name);
      values.push_back(value);
    }
    choice.get = [&member, values]() -> std::size_t {
      for (std::size_t i = 0; i < values.size(); ++i) {
        if (values[i] == member) return i;
      }
      return values.size();
    };
    choice.set = [&member, values](std::size_t i) { member = values[i]; };
    add_field(std::move(key), std::move(choice), options);
  }

  bool has(std::string_view key) const { return find(key) != nullptr; }
  /// True if some key begins with "<section>.".
  bool has_section(std::string_view section) const;
  /// True once assign() has taken a value for the key, which must be bound.
  bool is_given(std::string_view key) const;
  /// Ascending.
  std::vector<std::string> keys() const;
  std::vector<std::string> sections() const;
  /// True if the key is text to a person (string, name, duration, list), so that a bare word may
  /// stand for it.
  bool takes_words(std::string_view key) const;
  /// True if the key is a list of strings.
  bool takes_list(std::string_view key) const;

  /// Assigns, or leaves the member alone and says why not, beginning with the key. `key` must be
  /// bound.
  std::optional<std::string> assign(std::string_view key, const RawValue& value);

  /// Ascending by key.
  std::vector<KeyInfo> list() const;
  /// All keys, "key = value" a line, ascending; TOML that reads back as the same configuration.
  /// Equal for equal configurations on every machine and library version.
  std::string canonical_text() const;
  Hash128 digest() const { return hash128(canonical_text()); }

 private:
  struct Choice {
    std::vector<std::string> names;
    std::function<std::size_t()> get;
    std::function<void(std::size_t)> set;
  };
  using Target = std::variant<bool*, std::int32_t*, std::int64_t*, double*, std::string*,
                              std::vector<std::string>*, Duration*, Choice>;
  struct Field {
    std::string key;
    Target target;
    FieldOptions options;
    bool is_given = false;
  };

  void add_field(std::string key, Target target, FieldOptions options);
  const Field* find(std::string_view key) const;
  static std::optional<std::string> take(const Field& field, const RawValue& value);
  static std::string type_of(const Field& field);
  static std::string value_of(const Field& field);

  std::vector<Field> fields_;  // ascending by key
};

}  // namespace tenax::configs
