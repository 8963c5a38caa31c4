#include "tools/progress_line.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

namespace tenax::tools {

namespace {

constexpr auto kPlainInterval = std::chrono::seconds(5);

std::size_t terminal_width(std::FILE* out) {
  winsize size{};
  if (ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 100;
}

std::string text_of(const actors::Progress& p) {
  std::string text = fmt::format("step {}/{}", p.step, p.total_steps);
  if (p.step > 0) {
    text += fmt::format("  loss {:.4f}  grad norm {:.2f}  {:.0f} tokens/s", p.loss, p.grad_norm,
                        p.tokens_per_second);
    if (p.tflops > 0) text += fmt::format("  {:.3f} TFLOP/s", p.tflops);
    if (p.mfu > 0) text += fmt::format("  MFU {:.0f} %", 100 * p.mfu);
    if (p.has_eval) text += fmt::format("  held-out {:.4f}", p.eval_loss);
  }
  if (p.phase == scheduler::Phase::kRunning) {
    if (p.step > 0) text += fmt::format("  {} left", format_seconds(p.eta_seconds));
  } else {
    text += fmt::format("  [{}]", scheduler::to_string(p.phase));
  }
  text += fmt::format("  restarts {}", p.restarts);
  if (p.rollbacks > 0) text += fmt::format("  rollbacks {}", p.rollbacks);
  return text;
}

}  // namespace

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
  line_ = text_of(progress);
  if (terminal_) {
    std::string shown = line_.substr(0, terminal_width(out_) - 1);
    fmt::print(out_, "\r\x1b[K{}", shown);
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
  fmt::print(out_, "{}\n", text);
  if (terminal_ && drawn_) fmt::print(out_, "{}", line_.substr(0, terminal_width(out_) - 1));
  std::fflush(out_);
}

void ProgressLine::finish(const actors::Progress& progress) {
  draw(progress, last_ + kPlainInterval);
  if (terminal_ && drawn_) fmt::print(out_, "\n");
  drawn_ = false;
  std::fflush(out_);
}

}  // namespace tenax::tools
