#include "tools/model_command.h"

#include <fmt/format.h>
#include <fmt/ostream.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string_view>
#include <utility>
#include <vector>

#include "compute/parameters.h"
#include "compute/precision.h"
#include "configs/model_card.h"
#include "scheduler/exit_code.h"

using nlohmann::json;

namespace tenax::tools {

namespace {

int fail(const Error& error, std::ostream& errors) {
  fmt::print(errors, "tenax: {}\n", error.message);
  return scheduler::kExitConfig;
}

/// "1,234,567".
std::string grouped(std::int64_t n) {
  std::string text = fmt::to_string(n);
  for (std::ptrdiff_t at = static_cast<std::ptrdiff_t>(text.size()) - 3; at > 0; at -= 3)
    text.insert(static_cast<std::size_t>(at), 1, ',');
  return text;
}

/// "1.25 GiB".
std::string bytes_text(std::int64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  return fmt::format("{:.{}f} {}", value, unit == 0 ? 0 : 2, kUnits[unit]);
}

/// Card keys in the order in which people read them: shapes, switches, scales.
constexpr std::string_view kOrder[] = {"width",
                                       "layers",
                                       "heads",
                                       "kv_heads",
                                       "head_dim",
                                       "ffn_width",
                                       "vocabulary_size",
                                       "padded_vocabulary_size",
                                       "max_sequence_length",
                                       "positions",
                                       "rope_theta",
                                       "norm",
                                       "norm_placement",
                                       "norm_epsilon",
                                       "activation",
                                       "biases",
                                       "parallel_block",
                                       "embedding_norm",
                                       "qk_norm",
                                       "tied_output"};

/// All keys of the card: those of kOrder, then the others by name.
std::vector<std::string> ordered_keys(const configs::ModelCard& card) {
  std::vector<std::string> keys;
  for (const std::string_view key : kOrder) {
    if (card.fields.contains(std::string(key))) keys.emplace_back(key);
  }
  for (const auto& [key, field] : card.fields) {
    if (std::find(std::begin(kOrder), std::end(kOrder), key) == std::end(kOrder))
      keys.push_back(key);
  }
  return keys;
}

json to_json(const ParameterCounts& c) {
  return {{"embedding", c.embedding}, {"attention", c.attention}, {"ffn", c.ffn},
          {"norms", c.norms},         {"head", c.head},           {"total", c.total()}};
}

json to_json(const RankMemory& r) {
  json layers = json::array();
  for (const RankMemory::Layers& l : r.layers)
    layers.push_back({{"first", l.first}, {"end", l.end}});
  return {{"layers", layers},         {"parameters", r.num_parameters},
          {"weights", r.weights},     {"gradients", r.gradients},
          {"optimizer", r.optimizer}, {"activations", r.activations},
          {"workspace", r.workspace}, {"total", r.total()}};
}

json to_json(const configs::ModelCard& card, const ParameterCounts& counts) {
  json fields = json::object();
  for (const auto& [key, f] : card.fields) {
    const std::string_view word = f.origin == configs::Origin::kPublished ? "source"
                                  : f.origin == configs::Origin::kDerived ? "sum"
                                                                          : "why";
    // TOML's booleans, numbers and plain strings are JSON's.
    fields[key] = {{"value", json::parse(f.value)},
                   {"origin", configs::to_string(f.origin)},
                   {word, f.evidence}};
  }
  json j = {{"name", card.name},
            {"title", card.title},
            {"deviation", card.deviation},
            {"model", fields},
            {"parameters", to_json(counts)}};
  if (!card.tiny.empty()) j["tiny"] = card.tiny;
  if (card.published_parameters > 0) {
    j["published_parameters"] = card.published_parameters;
    j["parameters_source"] = card.parameters_source;
  }
  if (!card.parameters_note.empty()) j["parameters_note"] = card.parameters_note;
  return j;
}

void print_card(const configs::ModelCard& card, std::ostream& out) {
  fmt::print(out, "{} ({})\n", card.title, card.name);
  if (!card.tiny.empty()) fmt::print(out, "small sibling: {}\n", card.tiny);
  fmt::print(out, "\n");
  for (const std::string& key : ordered_keys(card)) {
    const configs::CardField& f = card.fields.at(key);
    fmt::print(out, "  {:<23} {:<21} {:<9}  {}\n", key, f.value, configs::to_string(f.origin),
               f.evidence);
  }
  for (const std::string& d : card.deviation) fmt::print(out, "\ndeviation: {}", d);
  if (!card.deviation.empty()) fmt::print(out, "\n");
}

void print_counts(const configs::ModelCard& card, const ParameterCounts& c, std::ostream& out) {
  fmt::print(out, "\nparameters\n");
  const std::pair<std::string_view, std::int64_t> rows[] = {{"embedding", c.embedding},
                                                            {"attention", c.attention},
                                                            {"ffn", c.ffn},
                                                            {"norms", c.norms},
                                                            {"head", c.head}};
  for (const auto& [part, count] : rows) {
    fmt::print(out, "  {:<9} {:>19}  {:5.1f} %{}\n", part, grouped(count),
               100.0 * static_cast<double>(count) / static_cast<double>(c.total()),
               part == "head" && card.model.tied_output ? "  (the embedding's matrix)" : "");
  }
  fmt::print(out, "  {:<9} {:>19}", "total", grouped(c.total()));
  if (card.published_parameters > 0) {
    fmt::print(out, "  {:+.2f} % of the published {:g} ({})",
               100.0 * (static_cast<double>(c.total()) / card.published_parameters - 1),
               card.published_parameters, card.parameters_source);
  }
  fmt::print(out, "\n");
  if (!card.parameters_note.empty()) fmt::print(out, "  {}\n", card.parameters_note);
}

/// "0-2", or "0-1, 4-5" of two chunks.
std::string layers_text(const RankMemory& rank) {
  std::string text;
  for (const RankMemory::Layers& l : rank.layers)
    text += fmt::format("{}{}-{}", text.empty() ? "" : ", ", l.first, l.end - 1);
  return text;
}

std::string_view device_text(const LayoutQuestion& q) { return q.on_gpu ? "cuda" : "cpu"; }

void print_memory(const LayoutQuestion& q, const std::vector<RankMemory>& ranks,
                  std::ostream& out) {
  fmt::print(out,
             "\nmemory of a rank, device {}, {}: dp {} x tp {} x pp {} = {} ranks, microbatches of "
             "{}\n",
             device_text(q), compute::to_string(q.settings.precision), q.dp, q.tp, q.pp,
             std::int64_t{q.dp} * q.tp * q.pp, q.microbatch_size);
  fmt::print(out, "  {:<5} {:<9} {:>12} {:>12} {:>12} {:>12} {:>12} {:>12}\n", "stage", "layers",
             "weights", "gradients", "optimizer", "activations", "workspace", "total");
  for (std::size_t s = 0; s < ranks.size(); ++s) {
    const RankMemory& r = ranks[s];
    fmt::print(out, "  {:<5} {:<9} {:>12} {:>12} {:>12} {:>12} {:>12} {:>12}\n", s, layers_text(r),
               bytes_text(r.weights), bytes_text(r.gradients), bytes_text(r.optimizer),
               bytes_text(r.activations), bytes_text(r.workspace), bytes_text(r.total()));
  }
}

}  // namespace

ParameterCounts count_parameters(const compute::ModelOptions& options) {
  ParameterCounts c;
  for (const compute::ParameterSpec& p : compute::model_parameters(options)) {
    const auto has = [&](std::string_view part) { return p.name.find(part) != std::string::npos; };
    std::int64_t& part = has("norm.")         ? c.norms
                         : has("embedding.")  ? c.embedding
                         : has(".attention.") ? c.attention
                         : has(".ffn.")       ? c.ffn
                                              : c.head;
    part += p.num_elements();
  }
  return c;
}

int run_model_list(bool as_json, std::ostream& out, std::ostream& errors) {
  for (const std::string& name : configs::model_card_names()) {
    const auto card = configs::load_model_card(name);
    if (!card) return fail(card.error(), errors);
    const std::int64_t total = count_parameters(card->model).total();
    if (as_json) {
      fmt::print(out, "{}\n",
                 json{{"name", name}, {"title", card->title}, {"parameters", total}}.dump());
    } else {
      fmt::print(out, "{:<16} {:>19}  {}\n", name, grouped(total), card->title);
    }
  }
  return scheduler::kExitDone;
}

int run_model_show(const ModelArguments& arguments, std::ostream& out, std::ostream& errors) {
  const auto card = configs::load_model_card(arguments.name);
  if (!card) return fail(card.error(), errors);
  const auto memory = plan_layout_memory(card->model, arguments.layout);
  if (!memory) return fail(memory.error(), errors);
  const ParameterCounts counts = count_parameters(card->model);
  if (arguments.json) {
    json j = to_json(*card, counts);
    j["device"] = device_text(arguments.layout);
    j["precision"] = compute::to_string(arguments.layout.settings.precision);
    j["memory"] = json::array();
    for (const RankMemory& r : *memory) j["memory"].push_back(to_json(r));
    fmt::print(out, "{}\n", j.dump(2));
    return scheduler::kExitDone;
  }
  print_card(*card, out);
  print_counts(*card, counts, out);
  print_memory(arguments.layout, *memory, out);
  return scheduler::kExitDone;
}

}  // namespace tenax::tools
