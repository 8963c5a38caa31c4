// The texts of configs/models/*.toml. The definition is made by embed_cards.cmake during the build.
#pragma once

#include <span>
#include <string_view>

namespace tenax::configs {

struct EmbeddedCard {
  std::string_view name;
  std::string_view text;
};

/// Ascending by name.
std::span<const EmbeddedCard> embedded_cards();

}  // namespace tenax::configs
