// A journal entry as a line for people.
#pragma once

#include <cstddef>
#include <string>

#include "scheduler/run_json.h"

namespace tenax::tools {

/// "TIME  SEVERITY  TEXT", broken to lines of `width` columns (0: not) below the text or, where
/// that would be narrow, a little indented.
std::string journal_line(const scheduler::JournalEntry& entry, const std::string& text,
                         std::size_t width);

}  // namespace tenax::tools
