// The words of `tenax checkpoint show|diff|prune|export|import`.
#pragma once

#include <CLI/CLI.hpp>

namespace tenax::tools {

/// Adds the subcommands to `checkpoint`. The one that is called sets `exit_code`, which must
/// outlive the parsing.
void add_checkpoint_commands(CLI::App& checkpoint, int& exit_code);

}  // namespace tenax::tools
