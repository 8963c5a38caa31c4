// Text for people at a terminal: what fits a line, and how a longer text is broken. Files and pipes
// get one unbroken line a message. Pure functions but terminal_width() and say().
#pragma once

#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace tenax::tools {

/// Columns of the terminal that `out` writes to; 0 if it is none.
std::size_t terminal_width(std::FILE* out);

/// `text` broken at spaces into lines of at most `width` columns (0: not at all), those after the
/// first one indented by `indent`. A word longer than a line keeps its length.
std::string wrapped(std::string_view text, std::size_t width, std::size_t indent);

/// "label     text" on stdout, the text from `column` on, broken where the terminal ends.
void say(std::size_t column, std::string_view label, const std::string& text);

/// A part of a line and how much it is worth.
struct LinePart {
  std::string text;
  int worth = 0;
};

/// The parts, in their order, with two spaces between them; the least worth ones are left out until
/// the line fits `width` columns (0: any), and what still does not fit is cut.
std::string fitted(std::vector<LinePart> parts, std::size_t width);

}  // namespace tenax::tools
