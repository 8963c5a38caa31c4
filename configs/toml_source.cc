#include "configs/toml_source.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include "configs/nearest.h"

namespace tenax::configs {

namespace {

RawValue raw_of(const toml::node& node) {
  if (const auto* v = node.as_boolean()) {
    return {v->get(), fmt::format("boolean {}", v->get())};
  }
  if (const auto* v = node.as_integer()) {
    return {v->get(), fmt::format("integer {}", v->get())};
  }
  if (const auto* v = node.as_floating_point()) {
    return {v->get(), fmt::format("number {}", v->get())};
  }
  if (const auto* v = node.as_string()) {
    return {v->get(), fmt::format("string \"{}\"", v->get())};
  }
  if (const auto* array = node.as_array()) {
    std::vector<std::string> strings;
    for (const toml::node& element : *array) {
      const auto* s = element.as_string();
      if (s == nullptr) return {{}, "a list with " + raw_of(element).description};
      strings.push_back(s->get());
    }
    return {strings, "a list of strings"};
  }
  return {{}, node.is_table() ? "a table" : "a date or time"};
}

std::string did_you_mean(const std::optional<std::string>& name) {
  return name ? fmt::format("; did you mean '{}'?", *name) : "";
}

class TomlReader {
 public:
  TomlReader(Binder& binder, std::string_view name) : binder_(binder), name_(name) {}

  void read_table(const toml::table& table, const std::string& prefix) {
    for (const auto& [key, node] : table) {
      const std::string dotted = prefix + std::string(key.str());
      const toml::source_position& at = key.source().begin;
      if (binder_.has(dotted)) {
        if (auto problem = binder_.assign(dotted, raw_of(node))) {
          report(node.is_table() ? at : node.source().begin, dotted, *problem);
        }
      } else if (binder_.has_section(dotted)) {
        if (const toml::table* inner = node.as_table()) {
          read_table(*inner, dotted + ".");
        } else {
          report(at, dotted,
                 fmt::format("{}: expected a table, got {}", dotted, raw_of(node).description));
        }
      } else if (node.is_table()) {
        report(at, dotted,
               fmt::format("unknown section '{}'{}", dotted,
                           did_you_mean(nearest_word(dotted, binder_.sections()))));
      } else {
        report(at, dotted,
               fmt::format("unknown key '{}'{}", dotted,
                           did_you_mean(nearest_key(dotted, binder_.keys()))));
      }
    }
  }

  /// In the order of the text.
  ConfigProblems take() {
    ConfigProblems out;
    for (auto& [position, problem] : problems_) {
      out.lines.push_back(std::move(problem.line));
      out.keys.push_back(std::move(problem.key));
    }
    return out;
  }

 private:
  struct Problem {
    std::string line;
    std::string key;
  };

  void report(const toml::source_position& at, const std::string& key, const std::string& what) {
    problems_.emplace(std::pair(at.line, at.column),
                      Problem{fmt::format("{}:{}:{}: {}", name_, at.line, at.column, what), key});
  }

  Binder& binder_;
  std::string name_;
  std::multimap<std::pair<toml::source_index, toml::source_index>, Problem> problems_;
};

}  // namespace

ConfigProblems read_toml(Binder& binder, std::string_view text, std::string_view name) {
  try {
    const toml::table table = toml::parse(text);
    TomlReader reader(binder, name);
    reader.read_table(table, "");
    return reader.take();
  } catch (const toml::parse_error& error) {
    const toml::source_position& at = error.source().begin;
    return {{fmt::format("{}:{}:{}: {}", name, at.line, at.column, error.description())}, {}, true};
  }
}

ConfigProblems read_override(Binder& binder, std::string_view assignment) {
  const auto problem = [&](std::string key, std::string_view what) {
    return ConfigProblems{{fmt::format("--set {}: {}", assignment, what)}, {std::move(key)}};
  };
  const std::size_t equals = assignment.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    return problem("", "expected KEY=VALUE");
  }
  const std::string key(assignment.substr(0, equals));
  const std::string value(assignment.substr(equals + 1));
  if (!binder.has(key)) {
    if (binder.has_section(key)) return problem(key, "'" + key + "' is a section, not a key");
    return problem(
        key, fmt::format("unknown key '{}'{}", key, did_you_mean(nearest_key(key, binder.keys()))));
  }

  RawValue raw;
  std::string syntax_error;
  try {
    const toml::table table = toml::parse("value = " + value + "\n");
    if (table.size() == 1) {
      raw = raw_of(*table.get("value"));
    } else {
      syntax_error = "more than one value";
    }
  } catch (const toml::parse_error& error) {
    syntax_error = error.description();
  }
  const bool is_text = std::holds_alternative<std::string>(raw.value) ||
                       std::holds_alternative<std::vector<std::string>>(raw.value);
  const bool is_collection = value.starts_with('[') || value.starts_with('{');
  if (binder.takes_words(key) && !is_text && !is_collection) {
    raw = {value, fmt::format("string \"{}\"", value)};
  } else if (!syntax_error.empty()) {
    // Not TOML: say what the key wants instead of what the parser did not like.
    raw = {{}, fmt::format("'{}'", value)};
  }
  if (binder.takes_list(key) && std::holds_alternative<std::string>(raw.value)) {
    raw.value = std::vector<std::string>{std::get<std::string>(raw.value)};
  }
  if (const auto wrong = binder.assign(key, raw)) return problem(key, *wrong);
  return {};
}

}  // namespace tenax::configs
