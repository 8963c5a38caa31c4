#include "data/position_map.h"

#include <algorithm>

#include "common/check.h"

namespace tenax::data {

namespace {

std::vector<SkipWindow> merged(std::vector<SkipWindow> windows) {
  for (SkipWindow& w : windows) w.begin = std::max<std::int64_t>(w.begin, 0);
  std::erase_if(windows, [](const SkipWindow& w) { return w.end <= w.begin; });
  std::sort(windows.begin(), windows.end(),
            [](const SkipWindow& a, const SkipWindow& b) { return a.begin < b.begin; });
  std::vector<SkipWindow> out;
  for (const SkipWindow& w : windows) {
    if (!out.empty() && w.begin <= out.back().end) {
      out.back().end = std::max(out.back().end, w.end);
    } else {
      out.push_back(w);
    }
  }
  return out;
}

}  // namespace

PositionMap::PositionMap(std::int64_t global_batch_size, std::vector<SkipWindow> skips)
    : PositionMap(std::vector<BatchSizeChange>{{1, global_batch_size}}, std::move(skips)) {}

PositionMap::PositionMap(std::vector<BatchSizeChange> ramp, std::vector<SkipWindow> skips)
    : ramp_(std::move(ramp)), skips_(merged(std::move(skips))) {
  TENAX_CHECK(!ramp_.empty() && ramp_.front().first_step == 1);
  std::int64_t samples = 0;
  for (std::size_t i = 0; i < ramp_.size(); ++i) {
    TENAX_CHECK(ramp_[i].size >= 1);
    if (i > 0) {
      TENAX_CHECK(ramp_[i].first_step > ramp_[i - 1].first_step);
      samples += (ramp_[i].first_step - ramp_[i - 1].first_step) * ramp_[i - 1].size;
    }
    samples_before_change_.push_back(samples);
  }
  std::int64_t skipped = 0;
  for (const SkipWindow& w : skips_) {
    samples_before_skip_.push_back(w.begin - skipped);
    skipped += w.end - w.begin;
  }
}

std::int64_t PositionMap::batch_size(std::int64_t step) const {
  TENAX_CHECK(step >= 1);
  const auto after = std::upper_bound(
      ramp_.begin(), ramp_.end(), step,
      [](std::int64_t s, const BatchSizeChange& change) { return s < change.first_step; });
  return std::prev(after)->size;
}

std::int64_t PositionMap::samples_before(std::int64_t step) const {
  TENAX_CHECK(step >= 1);
  const auto after = std::upper_bound(
      ramp_.begin(), ramp_.end(), step,
      [](std::int64_t s, const BatchSizeChange& change) { return s < change.first_step; });
  const auto i = static_cast<std::size_t>(after - ramp_.begin() - 1);
  return samples_before_change_[i] + (step - ramp_[i].first_step) * ramp_[i].size;
}

std::int64_t PositionMap::position_of(std::int64_t sample) const {
  const auto after =
      std::upper_bound(samples_before_skip_.begin(), samples_before_skip_.end(), sample);
  if (after == samples_before_skip_.begin()) return sample;
  const auto i = static_cast<std::size_t>(after - samples_before_skip_.begin() - 1);
  return skips_[i].end + (sample - samples_before_skip_[i]);
}

std::vector<PositionRange> PositionMap::ranges(std::int64_t step) const {
  std::int64_t left = batch_size(step);
  std::int64_t begin = position_of(samples_before(step));
  auto skip = std::lower_bound(
      skips_.begin(), skips_.end(), begin,
      [](const SkipWindow& w, std::int64_t position) { return w.begin < position; });
  std::vector<PositionRange> out;
  while (left > 0) {
    const std::int64_t until =
        skip == skips_.end() ? begin + left : std::min(begin + left, skip->begin);
    out.push_back({begin, until});
    left -= until - begin;
    if (left > 0) {
      begin = skip->end;
      ++skip;
    }
  }
  return out;
}

std::vector<std::int64_t> PositionMap::positions(std::int64_t step) const {
  std::vector<std::int64_t> out;
  out.reserve(static_cast<std::size_t>(batch_size(step)));
  for (const PositionRange& range : ranges(step)) {
    for (std::int64_t p = range.begin; p < range.end; ++p) out.push_back(p);
  }
  return out;
}

std::int64_t PositionMap::begin(std::int64_t step) const {
  return position_of(samples_before(step));
}

std::int64_t PositionMap::end(std::int64_t step) const {
  return position_of(samples_before(step + 1) - 1) + 1;
}

}  // namespace tenax::data
