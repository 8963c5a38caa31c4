#include "tools/progress_line.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "tools/terminal_text.h"

namespace tenax::tools {

namespace {

constexpr auto kPlainInterval = std::chrono::seconds(5);
constexpr std::size_t kHang = 4;  // of the further lines of a message

}  // namespace

std::string progress_text(const actors::Progress& p, std::size_t width) {
  std::vector<LinePart> parts = {{fmt::format("step {}/{}", p.step, p.total_steps), 10}};
  const auto add = [&](int worth, std::string text) { parts.push_back({std::move(text), worth}); };
  if (p.step > 0) {
    add(9, fmt::format("loss {:.4f}", p.loss));
    add(2, fmt::format("grad norm {:.2f}", p.grad_norm));
    add(6, fmt::format("{:.0f} tokens/s", p.tokens_per_second));
    if (p.tflops > 0) add(1, fmt::format("{:.3f} TFLOP/s", p.tflops));
    if (p.mfu > 0) add(3, fmt::format("MFU {:.0f} %", 100 * p.mfu));
    if (p.has_eval) add(4, fmt::format("held-out {:.4f}", p.eval_loss));
  }
  if (p.phase != scheduler::Phase::kRunning) {
    add(8, fmt::format("[{}]", scheduler::to_string(p.phase)));
  } else if (p.step > 0) {
    add(7, fmt::format("{} left", format_seconds(p.eta_seconds)));
  }
  add(5, fmt::format("restarts {}", p.restarts));
  if (p.rollbacks > 0) add(5, fmt::format("rollbacks {}", p.rollbacks));
  return fitted(std::move(parts), width);
}

std::string format_seconds(double seconds) {
  if (seconds < 10) return fmt::format("{:.1f}s", seconds);
  const auto s = static_cast<long>(seconds + 0.5);
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  return fmt::format("{}h{:02}m", s / 3600, s % 3600 / 60);
}

ProgressLine::ProgressLine(std::FILE* out) : out_(out), terminal_(isatty(fileno(out)) == 1) {}

void ProgressLine::draw(const actors::Progress& progress, Time now) {
  if (progress.total_steps == 0) return;  // nothing has been decided yet
  const std::size_t width = terminal_width(out_);
  // A character in the last column would make some terminals begin a new line.
  line_ = progress_text(progress, width > 0 ? width - 1 : 0);
  if (terminal_) {
    fmt::print(out_, "\r\x1b[K{}", line_);
    std::fflush(out_);
    drawn_ = true;
    return;
  }
  if (progress.step == last_step_ || now - last_ < kPlainInterval) return;
  last_ = now;
  last_step_ = progress.step;
  fmt::print(out_, "{}\n", line_);
  std::fflush(out_);
}

void ProgressLine::say(const std::string& text) {
  if (terminal_ && drawn_) fmt::print(out_, "\r\x1b[K");
  fmt::print(out_, "{}\n", wrapped(text, terminal_width(out_), kHang));
  if (terminal_ && drawn_) fmt::print(out_, "{}", line_);
  std::fflush(out_);
}

void ProgressLine::finish(const actors::Progress& progress) {
  draw(progress, last_ + kPlainInterval);
  if (terminal_ && drawn_) fmt::print(out_, "\n");
  drawn_ = false;
  std::fflush(out_);
}

}  // namespace tenax::tools
