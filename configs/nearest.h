// "Did you mean ...?" for keys and names. Pure functions.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace tenax::configs {

/// Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b` (optimal
/// string alignment: Boytsov, "Indexing methods for approximate dictionary searching",
/// doi:10.1145/1963190.1963191, section 2).
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The word most like `word` if one is like enough; the first of equals.
std::optional<std::string> nearest_word(std::string_view word, std::span<const std::string> words);

/// The same for dotted keys: also finds a key whose last part is right and whose section is wrong
/// or missing.
std::optional<std::string> nearest_key(std::string_view key, std::span<const std::string> keys);

}  // namespace tenax::configs
