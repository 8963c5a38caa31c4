// tenax journal --check: decides every event of a run's journal again and compares.
#pragma once

#include <filesystem>

namespace tenax::tools {

/// Feeds the journalled events, in order and with their times, to a run controller that starts from
/// nothing, and compares what it decides with what was journalled. Prints the first differences.
/// Returns 0 if there are none, 1 if there are, another ExitCode if the journal cannot be read.
int run_journal_check(const std::filesystem::path& run_dir, bool json);

}  // namespace tenax::tools
