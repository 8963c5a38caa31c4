#include "configs/model_card.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "configs/embedded_cards.h"
#include "configs/model_keys.h"
#include "configs/nearest.h"
#include "configs/text_file.h"
#include "configs/toml_source.h"

namespace tenax::configs {

namespace {

constexpr std::string_view kSection = "model.";
constexpr std::string_view kValue = ".value";

/// What a card says of one key besides its value.
struct Statement {
  Origin origin = Origin::kMissing;
  std::string source;
  std::string sum;
  std::string why;
};
using Statements = std::map<std::string, Statement>;

void bind_card(Binder& b, ModelCard& c) {
  b.add("card.title", c.title, {.doc = "The model's name as its authors write it."});
  b.add("card.tiny", c.tiny, {.doc = "Small sibling of the same architecture."});
  b.add("card.published_parameters", c.published_parameters,
        {.doc = "Size that the authors state.", .range = at_least(0)});
  b.add("card.parameters_source", c.parameters_source, {.doc = "Where they state it."});
  b.add("card.parameters_note", c.parameters_note, {.doc = "Why the count differs from it."});
  b.add("card.tiny_loss", c.tiny_loss,
        {.doc = "Held-out loss that configs/tiny.toml reaches with it.", .unit = "nats"});
  b.add("card.deviation", c.deviation, {.doc = "What the engine builds in another way."});
}

void bind_options(Binder& b, compute::ModelOptions& o) {
  b.add("model.vocabulary_size.value", o.vocabulary_size,
        {.doc = "Tokens of the model's tokenizer.", .range = at_least(1)});
  b.add("model.max_sequence_length.value", o.max_sequence_length,
        {.doc = "Longest sequence.", .range = at_least(1)});
  bind_model(b, o, kValue);
}

/// The keys of [model], without section and suffix.
std::vector<std::string> model_keys() {
  compute::ModelOptions options;
  Binder binder;
  bind_options(binder, options);
  std::vector<std::string> keys;
  for (const std::string& key : binder.keys()) {
    keys.push_back(key.substr(kSection.size(), key.size() - kSection.size() - kValue.size()));
  }
  return keys;
}

void bind_statements(Binder& b, Statements& statements) {
  for (auto& [key, s] : statements) {
    const std::string prefix = std::string(kSection) + key;
    b.add_enum(prefix + ".origin", s.origin,
               {{"published", Origin::kPublished},
                {"derived", Origin::kDerived},
                {"chosen", Origin::kChosen}},
               {.doc = "Where the value is from."});
    b.add(prefix + ".source", s.source, {.doc = "Of a published value."});
    b.add(prefix + ".sum", s.sum, {.doc = "Of a derived value."});
    b.add(prefix + ".why", s.why, {.doc = "Of a chosen value."});
  }
}

/// What an origin must be backed with, and the text if it is.
std::pair<std::string_view, const std::string*> evidence_of(const Statement& s) {
  switch (s.origin) {
    case Origin::kMissing:
      break;
    case Origin::kPublished:
      return {"source", &s.source};
    case Origin::kDerived:
      return {"sum", &s.sum};
    case Origin::kChosen:
      return {"why", &s.why};
  }
  return {"", nullptr};
}

/// Checks that each key has a value and an origin with its evidence, and nothing besides.
class StatementCheck {
 public:
  StatementCheck(const Binder& binder, const ConfigProblems& earlier, std::string_view file)
      : binder_(binder), earlier_(earlier), file_(file) {}

  void check(const std::string& key, const Statement& s, bool needed) {
    const std::string dotted = std::string(kSection) + key;
    const bool has_value = binder_.is_given(dotted + ".value");
    const bool has_origin = binder_.is_given(dotted + ".origin");
    if (!has_value && !has_origin) {
      if (needed && !was_reported(dotted)) report(dotted, "is not stated");
      return;
    }
    if (!has_value && !was_reported(dotted + ".value")) report(dotted, "has no value");
    if (!has_origin) {
      if (!was_reported(dotted + ".origin"))
        report(dotted, "has no origin: published, derived or chosen");
      return;
    }
    const auto [word, text] = evidence_of(s);
    if (text->empty())
      report(dotted, fmt::format("is {}: {} is missing", to_string(s.origin), word));
    for (const std::string_view other : {"source", "sum", "why"}) {
      if (other != word && binder_.is_given(fmt::format("{}.{}", dotted, other)))
        report(dotted, fmt::format("is {}: {} does not belong there", to_string(s.origin), other));
    }
  }

  std::vector<std::string> take() { return std::move(lines_); }

 private:
  bool was_reported(const std::string& key) const {
    return std::find(earlier_.keys.begin(), earlier_.keys.end(), key) != earlier_.keys.end();
  }
  void report(const std::string& key, std::string_view what) {
    lines_.push_back(fmt::format("{}: {} {}", file_, key, what));
  }

  const Binder& binder_;
  const ConfigProblems& earlier_;
  std::string_view file_;
  std::vector<std::string> lines_;
};

void check_card(const ModelCard& card, std::string_view file, std::vector<std::string>& lines) {
  if (card.title.empty()) lines.push_back(fmt::format("{}: card.title is missing", file));
  if (card.published_parameters > 0 && card.parameters_source.empty()) {
    lines.push_back(
        fmt::format("{}: card.published_parameters has no card.parameters_source", file));
  }
}

}  // namespace

std::string_view to_string(Origin origin) {
  switch (origin) {
    case Origin::kMissing:
      return "missing";
    case Origin::kPublished:
      return "published";
    case Origin::kDerived:
      return "derived";
    case Origin::kChosen:
      return "chosen";
  }
  return "missing";
}

std::vector<std::string> model_card_names() {
  std::vector<std::string> names;
  for (const EmbeddedCard& card : embedded_cards()) names.emplace_back(card.name);
  return names;
}

Result<ModelCard> parse_model_card(std::string_view text, std::string_view name,
                                   std::string_view file) {
  ModelCard card;
  card.name = name;
  Statements statements;
  for (const std::string& key : model_keys()) statements[key];
  Binder binder;
  bind_card(binder, card);
  bind_options(binder, card.model);
  bind_statements(binder, statements);
  ConfigProblems problems = read_toml(binder, text, file);
  if (!problems.is_syntax_error) {
    StatementCheck check(binder, problems, file);
    for (const auto& [key, s] : statements) {
      const bool needed =
          key != "rope_theta" || card.model.positions == compute::PositionKind::kRope;
      check.check(key, s, needed);
    }
    std::vector<std::string> more = check.take();
    check_card(card, file, more);
    // Judged only when every figure is there: a default in a gap would be judged too.
    if (problems.lines.empty() && more.empty()) {
      for (const std::string& problem : compute::problems(card.model)) {
        more.push_back(
            fmt::format("{}: model: {}", file, with_model_keys(problem, "max_sequence_length")));
      }
    }
    problems.lines.insert(problems.lines.end(), more.begin(), more.end());
  }
  if (!problems.lines.empty()) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("{}", fmt::join(problems.lines, "\n")));
  }
  Binder values;
  bind_options(values, card.model);
  for (const KeyInfo& info : values.list()) {
    const std::string key =
        info.key.substr(kSection.size(), info.key.size() - kSection.size() - kValue.size());
    const Statement& s = statements.at(key);
    if (s.origin == Origin::kMissing) continue;
    card.fields[key] = {s.origin, *evidence_of(s).second, info.value};
  }
  return card;
}

Result<ModelCard> load_model_card(const std::string& name_or_path,
                                  const std::filesystem::path& base_dir) {
  for (const EmbeddedCard& card : embedded_cards()) {
    if (card.name == name_or_path)
      return parse_model_card(card.text, card.name, fmt::format("model card {}", card.name));
  }
  if (name_or_path.find('/') == std::string::npos && !name_or_path.ends_with(".toml")) {
    const auto near = nearest_word(name_or_path, model_card_names());
    return make_error(ErrorCode::kNotFound,
                      fmt::format("there is no model card '{}'{}", name_or_path,
                                  near ? fmt::format("; did you mean '{}'?", *near)
                                       : "; `tenax model list` names them"));
  }
  const std::filesystem::path path = base_dir / name_or_path;
  TENAX_TRY(const std::string text, read_text_file(path, "model card"));
  return parse_model_card(text, path.stem().string(), path.string());
}

void apply_model_card(const ModelCard& card, compute::ModelOptions& model) {
  compute::ModelOptions architecture = card.model;
  architecture.vocabulary_size = model.vocabulary_size;
  architecture.padded_vocabulary_size = model.padded_vocabulary_size;
  architecture.max_sequence_length = model.max_sequence_length;
  model = architecture;
}

}  // namespace tenax::configs
