#include "tools/journal_line.h"

#include <fmt/format.h>

#include "tools/terminal_text.h"

namespace tenax::tools {

namespace {

constexpr std::size_t kTextColumn = 35;  // after the time and the severity
constexpr std::size_t kNarrow = 100;
constexpr std::size_t kIndent = 4;

}  // namespace

std::string journal_line(const scheduler::JournalEntry& entry, const std::string& text,
                         std::size_t width) {
  const std::string line = fmt::format("{}  {:<7}  {}", format_time(entry.time),
                                       scheduler::to_string(scheduler::severity_of(entry)), text);
  return wrapped(line, width, width < kNarrow ? kIndent : kTextColumn);
}

}  // namespace tenax::tools
