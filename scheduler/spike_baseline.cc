#include "scheduler/spike_baseline.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace tenax::scheduler {
namespace {

constexpr std::int32_t kRefreshEvery = 4;
/// Makes the median absolute deviation of normal noise its standard deviation.
constexpr double kMadToSigma = 1.4826;
/// Logs rounded to few digits can have a spread of zero; a score needs some.
constexpr double kMinRelativeSigma = 1e-4;

double median_of_range(double* begin, double* end) {
  const std::ptrdiff_t n = end - begin;
  if (n == 0) return 0;
  double* middle = begin + n / 2;
  std::nth_element(begin, middle, end);
  if (n % 2 == 1) return *middle;
  return 0.5 * (*middle + *std::max_element(begin, middle));
}

void push(double value, std::int32_t capacity, std::vector<double>& values) {
  if (values.size() >= static_cast<std::size_t>(capacity)) values.erase(values.begin());
  values.push_back(value);
}

}  // namespace

double median_in_place(std::vector<double>& values) {
  return median_of_range(values.data(), values.data() + values.size());
}

void SpikeBaseline::accept(double loss, SpikeBaselineState& state) const {
  push(loss, window_, state.losses);
  ++state.stale;
  if (state.stale >= kRefreshEvery || state.losses.size() < static_cast<std::size_t>(window_))
    refresh(state);
}

void SpikeBaseline::accept_grad_norm(double grad_norm, SpikeBaselineState& state) const {
  push(grad_norm, window_, state.grad_norms);
}

void SpikeBaseline::reset(const std::vector<double>& losses, SpikeBaselineState& state) const {
  const std::size_t kept = std::min(losses.size(), static_cast<std::size_t>(window_));
  state = {};
  state.losses.assign(losses.end() - static_cast<std::ptrdiff_t>(kept), losses.end());
  refresh(state);
}

void SpikeBaseline::refresh(SpikeBaselineState& state) const {
  const std::size_t n = state.losses.size();
  const std::size_t half = n / 2;
  std::vector<double> scratch = state.losses;
  const double older = median_of_range(scratch.data(), scratch.data() + half);
  const double newer = median_of_range(scratch.data() + half, scratch.data() + n);
  state.level = newer;
  state.slope = half == 0 ? 0 : std::min(0.0, (newer - older) / (0.5 * static_cast<double>(n)));
  scratch.assign(state.losses.end() - static_cast<std::ptrdiff_t>((n + 3) / 4), state.losses.end());
  state.level =
      std::max(newer + 0.25 * static_cast<double>(n) * state.slope, median_in_place(scratch));
  scratch.resize(n);
  for (std::size_t i = 0; i < n; ++i)
    scratch[i] = state.losses[i] - state.slope * static_cast<double>(i);
  const double offset = median_in_place(scratch);
  for (double& residual : scratch) residual = std::abs(residual - offset);
  state.sigma =
      std::max(kMadToSigma * median_in_place(scratch), kMinRelativeSigma * std::abs(state.level));
  scratch = state.grad_norms;
  state.grad_norm_level = median_in_place(scratch);
  state.stale = 0;
}

}  // namespace tenax::scheduler
