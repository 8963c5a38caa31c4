// The live line at the bottom of a terminal: rewritten in place on a terminal, one plain line now
// and then elsewhere.
#pragma once

#include <cstddef>
#include <cstdio>
#include <string>

#include "actors/run_view.h"
#include "common/clock.h"

namespace tenax::tools {

class ProgressLine {
 public:
  explicit ProgressLine(std::FILE* out);
  /// Draws the newest numbers; on a non-terminal only every few seconds and at the end.
  void draw(const actors::Progress& progress, Time now);
  /// Prints a message above the line.
  void say(const std::string& text);
  /// Draws once more, whatever was drawn last, and goes to the next line.
  void finish(const actors::Progress& progress);

 private:
  std::FILE* out_;
  bool terminal_;
  bool drawn_ = false;
  Time last_{};
  std::int64_t last_step_ = -1;
  std::string line_;
};

/// The numbers that fit `width` columns (0: all), the most telling ones first to stay.
std::string progress_text(const actors::Progress& progress, std::size_t width);

/// "1m05s", "3.2s", "2h10m".
std::string format_seconds(double seconds);

}  // namespace tenax::tools
