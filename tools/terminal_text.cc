#include "tools/terminal_text.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

namespace tenax::tools {

namespace {

constexpr std::size_t kUsualWidth = 80;  // of a terminal that does not say

std::string joined(const std::vector<LinePart>& parts) {
  std::string line;
  for (const LinePart& part : parts) line += (line.empty() ? "" : "  ") + part.text;
  return line;
}

}  // namespace

std::size_t terminal_width(std::FILE* out) {
  const int fd = fileno(out);
  if (isatty(fd) != 1) return 0;
  winsize size{};
  if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return kUsualWidth;
}

std::string wrapped(std::string_view text, std::size_t width, std::size_t indent) {
  if (width <= indent) return std::string(text);
  std::string out;
  std::size_t margin = 0;
  while (text.size() > width - margin) {
    const std::size_t room = width - margin;
    // The space after a word that ends in the last column counts too.
    std::size_t end = text.rfind(' ', room);
    const bool only_blanks = end == std::string_view::npos || text.find_first_not_of(' ') >= end;
    if (only_blanks) end = text.find(' ', std::max(room, text.find_first_not_of(' ')));
    if (end == std::string_view::npos) break;
    std::string_view line = text.substr(0, end);
    line = line.substr(0, line.find_last_not_of(' ') + 1);
    out.append(margin, ' ').append(line) += '\n';
    text.remove_prefix(std::min(text.find_first_not_of(' ', end), text.size()));
    margin = indent;
  }
  if (!text.empty() || out.empty()) out.append(margin, ' ').append(text);
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

void say(std::size_t column, std::string_view label, const std::string& text) {
  fmt::print("{}\n",
             wrapped(fmt::format("{:<{}}{}", label, column, text), terminal_width(stdout), column));
}

std::string fitted(std::vector<LinePart> parts, std::size_t width) {
  std::string line = joined(parts);
  while (width > 0 && line.size() > width && parts.size() > 1) {
    parts.erase(
        std::min_element(parts.begin(), parts.end(),
                         [](const LinePart& a, const LinePart& b) { return a.worth < b.worth; }));
    line = joined(parts);
  }
  return width > 0 ? line.substr(0, width) : line;
}

}  // namespace tenax::tools
