// A model card: the architecture of a known model, with the origin of every figure
// (configs/models/*.toml). The cards of the repository are part of the program; others are files.
//
//   [card]
//   title = "GPT-3 175B"
//   tiny = "gpt3-tiny"                      its small sibling of the same architecture
//   published_parameters = 175e9
//   parameters_source = "..."
//   parameters_note = "..."                 where the count differs by more than 1.5 %
//   tiny_loss = 3.0                         of a small sibling: held-out loss of configs/tiny.toml
//   deviation = ["..."]                     what the published model has and this engine does not
//   [model]
//   width = { value = 12288, origin = "published", source = "..." }
//   ffn_width = { value = 49152, origin = "derived", sum = "4 * 12288" }
//   norm_epsilon = { value = 1e-5, origin = "chosen", why = "..." }
//
// Every key of [model] must be there, rope_theta only with RoPE. Value types, pure functions but
// for load_model_card(), which may read a file.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "compute/model_options.h"

namespace tenax::configs {

enum class Origin {
  kMissing,
  kPublished,  ///< evidence: the source
  kDerived,    ///< evidence: the sum, from figures with an origin of their own
  kChosen,     ///< evidence: why, where nothing is published
};
std::string_view to_string(Origin origin);

struct CardField {
  Origin origin = Origin::kMissing;
  std::string evidence;
  std::string value;  ///< as TOML
};

struct ModelCard {
  std::string name;
  std::string title;
  std::string tiny;                 ///< name of the small sibling; empty: this is one
  double published_parameters = 0;  ///< 0: no size is published
  std::string parameters_source;
  std::string parameters_note;
  double tiny_loss = 0;  ///< nats; what training a small sibling by configs/tiny.toml reaches
  std::vector<std::string> deviation;
  compute::ModelOptions model;
  std::map<std::string, CardField> fields;  ///< by key of [model]
};

/// The cards that are part of the program, ascending.
std::vector<std::string> model_card_names();

/// A card that is part of the program, or the file at `name_or_path` (anything with a slash or
/// ".toml"), relative to `base_dir`. kNotFound with the nearest name; otherwise as
/// parse_model_card().
Result<ModelCard> load_model_card(const std::string& name_or_path,
                                  const std::filesystem::path& base_dir = {});

/// All problems of a card at once, a line each, in one kInvalidArgument. `name` is the card's name,
/// `file` how messages call it.
Result<ModelCard> parse_model_card(std::string_view text, std::string_view name,
                                   std::string_view file);

/// The card's architecture for a run: everything but vocabulary, its padding and the longest
/// sequence, which the run's tokenizer and recipe decide.
void apply_model_card(const ModelCard& card, compute::ModelOptions& model);

}  // namespace tenax::configs
