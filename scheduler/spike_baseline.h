// The level and the spread of the recent normal losses, by medians, so that no single sample moves
// them. Value type; deterministic.
#pragma once

#include <cstdint>
#include <vector>

namespace tenax::scheduler {

/// Everything needed to go on with a baseline; all numbers are finite.
struct SpikeBaselineState {
  std::vector<double> losses;      ///< accepted losses, oldest first, at most `window`
  std::vector<double> grad_norms;  ///< accepted gradient norms, likewise
  double level = 0;                ///< median of the newer half of `losses`
  double sigma = 0;                ///< 1.4826 x median absolute deviation from the trend line
  double slope = 0;                ///< of the trend line per sample, never positive
  double grad_norm_level = 0;      ///< median of `grad_norms`; 0: none known
  std::int32_t stale = 0;          ///< samples accepted since these were computed

  bool operator==(const SpikeBaselineState&) const = default;
};

/// The trend is a line through the medians of the window's two halves, clamped to slope <= 0 and
/// not extrapolated: the level trails a falling loss, so that a descent that flattens is not taken
/// for a rise. The statistics are computed anew for every 4th accepted sample of a full window (and
/// for each one before it is full). Cost: O(window) then.
class SpikeBaseline {
 public:
  explicit SpikeBaseline(std::int32_t window) : window_(window) {}

  /// Takes in a sample judged normal. Precondition: `loss` is finite.
  void accept(double loss, SpikeBaselineState& state) const;
  /// Precondition: `grad_norm` is finite.
  void accept_grad_norm(double grad_norm, SpikeBaselineState& state) const;
  /// Starts anew from `losses`, all finite.
  void reset(const std::vector<double>& losses, SpikeBaselineState& state) const;

 private:
  void refresh(SpikeBaselineState& state) const;

  std::int32_t window_;
};

/// Median; the mean of the middle two for an even count, 0 for none. Reorders `values`.
double median_in_place(std::vector<double>& values);

}  // namespace tenax::scheduler
