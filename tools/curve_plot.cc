#include "tools/curve_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <vector>

namespace tenax::tools {
namespace {

using scheduler::MetricPoint;
using scheduler::SpikeAction;
using scheduler::SpikeEvent;
using scheduler::SpikeVerdict;

constexpr int kWidth = 1200;
constexpr int kHeight = 480;
constexpr int kLeft = 60;
constexpr int kRight = 1180;
constexpr int kTop = 40;
constexpr int kBottom = 430;
constexpr double kLogSpan = 8;

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

bool drawable(const MetricPoint& point) { return !point.missing && std::isfinite(point.loss); }

/// From steps and losses to pixels.
class Axes {
 public:
  explicit Axes(std::span<const MetricPoint> points) {
    for (const MetricPoint& point : points) {
      if (!drawable(point)) continue;
      first_ = std::min(first_, static_cast<double>(point.step));
      last_ = std::max(last_, static_cast<double>(point.step));
      low_ = std::min(low_, point.loss);
      high_ = std::max(high_, point.loss);
    }
    if (first_ > last_) first_ = last_ = low_ = high_ = 0;
    if (last_ == first_) ++last_;
    if (high_ == low_) ++high_;
    log_ = low_ > 0 && high_ / low_ > kLogSpan;
  }

  double x(double step) const {
    return kLeft + (kRight - kLeft) * std::clamp((step - first_) / (last_ - first_), 0.0, 1.0);
  }
  double y(double loss) const {
    const double share = log_ ? std::log(std::max(loss, low_) / low_) / std::log(high_ / low_)
                              : (loss - low_) / (high_ - low_);
    return kBottom - (kBottom - kTop) * std::clamp(share, 0.0, 1.0);
  }
  /// The step and the loss that lie at this share of each axis.
  double step_at(double share) const { return first_ + share * (last_ - first_); }
  double loss_at(double share) const {
    return log_ ? low_ * std::pow(high_ / low_, share) : low_ + share * (high_ - low_);
  }

 private:
  double first_ = std::numeric_limits<double>::max();
  double last_ = std::numeric_limits<double>::lowest();
  double low_ = std::numeric_limits<double>::max();
  double high_ = std::numeric_limits<double>::lowest();
  bool log_ = false;
};

std::string_view color(const SpikeEvent& event) {
  if (event.action == SpikeAction::kRollBack || event.action == SpikeAction::kStop)
    return "#d62728";
  switch (event.verdict) {
    case SpikeVerdict::kArmed:
    case SpikeVerdict::kOutlier:
      return "#bbbbbb";
    case SpikeVerdict::kRecovered:
      return "#2ca02c";
    case SpikeVerdict::kSpike:
      return "#ff7f0e";
    default:
      return "#9467bd";
  }
}

std::string draw_axes(const Axes& axes) {
  std::string out;
  constexpr int kTicks = 5;
  for (int i = 0; i <= kTicks; ++i) {
    const double share = static_cast<double>(i) / kTicks;
    const double x = axes.x(axes.step_at(share));
    const double y = axes.y(axes.loss_at(share));
    out += fmt::format(
        "<line x1=\"{0}\" y1=\"{2:.1f}\" x2=\"{1}\" y2=\"{2:.1f}\" stroke=\"#eeeeee\"/>\n"
        "<text x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5:.4g}</text>\n"
        "<text x=\"{6:.1f}\" y=\"{7}\" text-anchor=\"middle\">{8:.0f}</text>\n",
        kLeft, kRight, y, kLeft - 6, y + 4, axes.loss_at(share), x, kBottom + 18,
        axes.step_at(share));
  }
  return out;
}

std::string draw_losses(const Axes& axes, std::span<const MetricPoint> points) {
  struct Column {
    double high = std::numeric_limits<double>::lowest();
    double low = std::numeric_limits<double>::max();
  };
  std::vector<Column> columns(kRight - kLeft + 1);
  for (const MetricPoint& point : points) {
    if (!drawable(point)) continue;
    const double x = axes.x(static_cast<double>(point.step));
    Column& column = columns[static_cast<std::size_t>(x - kLeft)];
    column.high = std::max(column.high, point.loss);
    column.low = std::min(column.low, point.loss);
  }
  std::string out = "<polyline fill=\"none\" stroke=\"#1f77b4\" points=\"";
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const Column& column = columns[i];
    if (column.low > column.high) continue;
    const int x = kLeft + static_cast<int>(i);
    fmt::format_to(std::back_inserter(out), "{},{:.1f} ", x, axes.y(column.low));
    if (column.high > column.low)
      fmt::format_to(std::back_inserter(out), "{},{:.1f} ", x, axes.y(column.high));
  }
  return out + "\"/>\n";
}

std::string draw_event(const Axes& axes, const SpikeEvent& event) {
  const double x = axes.x(static_cast<double>(event.step));
  const double y = std::isfinite(event.loss) ? axes.y(event.loss) : kTop;
  std::string out;
  if (event.action == SpikeAction::kRollBack || event.action == SpikeAction::kStop)
    out += fmt::format(
        "<line x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2}\" stroke=\"{3}\" "
        "stroke-dasharray=\"4 3\"/>\n",
        x, kTop, kBottom, color(event));
  return out + fmt::format(
                   "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" fill=\"{}\"><title>step {}: {}: "
                   "{}</title></circle>\n",
                   x, y, color(event), event.step, to_string(event.verdict), escaped(event.reason));
}

}  // namespace

std::string plot_curve(std::string_view title, std::span<const MetricPoint> points,
                       std::span<const SpikeEvent> events) {
  const Axes axes(points);
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} "
      "{1}\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n"
      "<text x=\"{2}\" y=\"22\" font-size=\"15\">{3}</text>\n",
      kWidth, kHeight, kLeft, escaped(title));
  out += draw_axes(axes);
  out += draw_losses(axes, points);
  for (const SpikeEvent& event : events) out += draw_event(axes, event);
  return out + "</svg>\n";
}

}  // namespace tenax::tools
