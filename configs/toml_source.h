// Reads TOML into bound members. The only file with toml++ in it; its exceptions end here. All
// problems of a text are collected, each a line "file:line:column: message".
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "configs/binder.h"

namespace tenax::configs {

struct ConfigProblems {
  std::vector<std::string> lines;
  /// Keys that were given and not taken: what is said about them later would be about another
  /// value.
  std::vector<std::string> keys;
  bool is_syntax_error = false;
};

/// Assigns every key of `text`. `name` is how messages call the file. A syntax error is the only
/// problem reported then, because nothing after it can be trusted.
ConfigProblems read_toml(Binder& binder, std::string_view text, std::string_view name);

/// Assigns from `--set KEY=VALUE`: VALUE is TOML, or a bare word for a key that is text. Messages
/// begin with the flag.
ConfigProblems read_override(Binder& binder, std::string_view assignment);

}  // namespace tenax::configs
