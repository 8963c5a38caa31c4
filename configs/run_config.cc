#include "configs/run_config.h"

#include <fmt/format.h>

#include <system_error>

#include "configs/cross_check.h"
#include "configs/model_card.h"
#include "configs/text_file.h"
#include "configs/toml_source.h"

namespace tenax::configs {

namespace {

/// True if what a contradiction says may be due to a key whose value was not taken. "model" stands
/// for its section.
bool concerns(const Contradiction& contradiction, const std::vector<std::string>& bad_keys) {
  for (const std::string& about : contradiction.keys) {
    for (const std::string& bad : bad_keys) {
      if (bad == about || bad.starts_with(about + ".")) return true;
    }
  }
  return false;
}

/// The card that the recipe and the overrides name last; empty: none.
std::string card_of(std::string_view text, std::string_view name,
                    const std::vector<std::string>& overrides) {
  RunConfig scratch;
  Binder binder = bind(scratch);
  static_cast<void>(read_toml(binder, text, name));
  for (const std::string& assignment : overrides)
    static_cast<void>(read_override(binder, assignment));
  return scratch.model_card;
}

}  // namespace

Result<RunConfig> parse_run_config(std::string_view text, std::string_view name,
                                   const std::vector<std::string>& overrides,
                                   const std::filesystem::path& base_dir) {
  RunConfig config;
  ConfigProblems card_problems;
  if (const std::string card_name = card_of(text, name, overrides); !card_name.empty()) {
    const auto card = load_model_card(card_name, base_dir);
    if (card) {
      apply_model_card(*card, config.model);
    } else {
      card_problems.lines.push_back(fmt::format("{}: model.card: {}", name, card.error().message));
      // Nothing is known of the model then.
      card_problems.keys = {"model.card", "model.layers"};
    }
  }
  Binder binder = bind(config);
  ConfigProblems problems = read_toml(binder, text, name);
  const auto add = [&](const ConfigProblems& more) {
    problems.lines.insert(problems.lines.end(), more.lines.begin(), more.lines.end());
    problems.keys.insert(problems.keys.end(), more.keys.begin(), more.keys.end());
  };
  for (const std::string& assignment : overrides) add(read_override(binder, assignment));
  add(card_problems);
  if (!problems.is_syntax_error) {
    for (const Contradiction& contradiction : find_contradictions(config)) {
      if (!concerns(contradiction, problems.keys)) {
        problems.lines.push_back(fmt::format("{}: {}", name, contradiction.message));
      }
    }
  }
  if (!problems.lines.empty()) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("{}", fmt::join(problems.lines, "\n")));
  }
  config.model_card.clear();
  config.base_dir = base_dir;
  return config;
}

Result<RunConfig> load_run_config(const std::filesystem::path& path,
                                  const std::vector<std::string>& overrides) {
  TENAX_TRY(const std::string text, read_text_file(path, "configuration"));
  std::error_code ignored;
  return parse_run_config(
      text, path.string(), overrides,
      std::filesystem::absolute(path, ignored).parent_path().lexically_normal());
}

std::string canonical_text(const RunConfig& config) {
  RunConfig copy = config;
  return bind(copy).canonical_text();
}

Hash128 config_digest(const RunConfig& config) { return hash128(canonical_text(config)); }

compute::ModelOptions model_options(const RunConfig& config, std::int64_t vocabulary_size) {
  compute::ModelOptions options = config.model;
  options.vocabulary_size = vocabulary_size;
  options.max_sequence_length = config.train.sequence_length;
  return options;
}

scheduler::GuardOptions guard_options(const RunConfig& config) {
  scheduler::GuardOptions options = config.guard;
  options.clip_norm = config.optimizer.clip_norm;
  options.fp16_loss_scaling = config.spikes.fp16_loss_scaling;
  return options;
}

ConfigDiff diff(const RunConfig& before, const RunConfig& after) {
  RunConfig left = before;
  RunConfig right = after;
  const std::vector<KeyInfo> old_keys = bind(left).list();
  const std::vector<KeyInfo> new_keys = bind(right).list();
  ConfigDiff out;
  for (std::size_t i = 0; i < old_keys.size(); ++i) {
    if (old_keys[i].value == new_keys[i].value) continue;
    auto& changes = old_keys[i].changeable == Changeable::kYes ? out.changeable : out.fixed;
    changes.push_back({old_keys[i].key, old_keys[i].value, new_keys[i].value});
  }
  return out;
}

std::vector<KeyInfo> list_keys() {
  RunConfig config;
  return bind(config).list();
}

std::string keys_as_markdown() {
  std::string text;
  std::string section;
  for (const KeyInfo& k : list_keys()) {
    const std::string this_section = k.key.substr(0, k.key.find('.'));
    if (this_section != section) {
      section = this_section;
      text += fmt::format(
          "{}## {}\n\n| key | type | default | range | on resume | meaning |\n"
          "|---|---|---|---|---|---|\n",
          text.empty() ? "" : "\n", section);
    }
    std::string type = k.type;
    for (std::size_t at = 0; (at = type.find('|', at)) != std::string::npos; at += 4) {
      type.replace(at, 1, " \\| ");
    }
    text += fmt::format("| `{}` | {}{}{} | `{}` | {} | {} | {} |\n", k.key, type,
                        k.unit.empty() ? "" : ", ", k.unit, k.value, k.range,
                        k.changeable == Changeable::kYes ? "may change" : "fixed", k.doc);
  }
  return text;
}

}  // namespace tenax::configs
