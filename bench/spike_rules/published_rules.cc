#include "bench/spike_rules/published_rules.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <numeric>
#include <optional>
#include <utility>

namespace tenax::bench {
namespace {

using scheduler::MetricPoint;

/// The last `capacity` values.
class Window {
 public:
  explicit Window(std::size_t capacity) : capacity_(capacity) {}
  void push(double value) {
    if (values_.size() == capacity_) values_.pop_front();
    values_.push_back(value);
  }
  std::size_t size() const { return values_.size(); }
  bool full() const { return values_.size() == capacity_; }
  const std::deque<double>& values() const { return values_; }
  double mean() const {
    return std::accumulate(values_.begin(), values_.end(), 0.0) / static_cast<double>(size());
  }
  double deviation() const {
    const double m = mean();
    double sum = 0;
    for (const double value : values_) sum += (value - m) * (value - m);
    return std::sqrt(sum / static_cast<double>(size() - 1));
  }

 private:
  std::size_t capacity_;
  std::deque<double> values_;
};

/// OLMo-core's SkipStep optimizer: loss or gradient norm further than 6 standard deviations from
/// the mean of the last 128 values, spikes included, on either side.
class OlmoSkipStep : public SpikeRule {
 public:
  enum class Signals { kLoss, kLossAndGradNorm };
  explicit OlmoSkipStep(Signals signals) : signals_(signals) {}
  bool observe(const MetricPoint& point) override {
    bool fires = outlier(point.loss, losses_);
    if (signals_ == Signals::kLossAndGradNorm && point.grad_norm)
      fires |= outlier(*point.grad_norm, grad_norms_);
    return fires;
  }

 private:
  static bool outlier(double value, Window& window) {
    constexpr std::size_t kFewest = 64;
    constexpr double kSigmas = 6;
    const bool far =
        window.size() >= kFewest && std::abs(value - window.mean()) > kSigmas * window.deviation();
    window.push(value);
    return far;
  }

  Signals signals_;
  Window losses_{128};
  Window grad_norms_{128};
};

/// llm-foundry's KillLossSpike: more than 4 losses in a row of at least twice the mean of the last
/// 100.
class FoundryKillLossSpike : public SpikeRule {
 public:
  bool observe(const MetricPoint& point) override {
    constexpr int kPatience = 4;
    const bool high = window_.full() && point.loss >= 2 * window_.mean();
    in_a_row_ = high ? in_a_row_ + 1 : 0;
    window_.push(point.loss);
    return in_a_row_ > kPatience;
  }

 private:
  Window window_{100};
  int in_a_row_ = 0;
};

/// Megatron-LM's check for spiky loss: ten times the largest of the first 100 samples.
class MegatronSpikyLoss : public SpikeRule {
 public:
  bool observe(const MetricPoint& point) override {
    constexpr int kNumFirst = 100;
    if (num_seen_ < kNumFirst) {
      ++num_seen_;
      largest_ = std::max(largest_, point.loss);
      return false;
    }
    return point.loss >= 10 * largest_;
  }

 private:
  int num_seen_ = 0;
  double largest_ = 0;
};

/// Lightning's SpikeDetection: worse than the mean of the last 10 by at least twice that mean.
class LightningSpikeDetection : public SpikeRule {
 public:
  bool observe(const MetricPoint& point) override {
    const bool fires = window_.full() && point.loss - window_.mean() >= 2 * window_.mean();
    window_.push(point.loss);
    return fires;
  }

 private:
  Window window_{10};
};

/// More than three times an exponential moving average (0.99) of the losses that did not fire.
class ThreeTimesEma : public SpikeRule {
 public:
  bool observe(const MetricPoint& point) override {
    constexpr double kKeep = 0.99;
    if (ema_ && point.loss > 3 * *ema_) return true;
    ema_ = ema_ ? kKeep * *ema_ + (1 - kKeep) * point.loss : point.loss;
    return false;
  }

 private:
  std::optional<double> ema_;
};

/// ksuit: more than 1.2 times the mean of the last 50 accepted losses, at most 100 times in a row.
class KsuitSkip : public SpikeRule {
 public:
  bool observe(const MetricPoint& point) override {
    constexpr int kMostInARow = 100;
    if (window_.full() && point.loss > 1.2 * window_.mean() && in_a_row_ < kMostInARow) {
      ++in_a_row_;
      return true;
    }
    in_a_row_ = 0;
    window_.push(point.loss);
    return false;
  }

 private:
  Window window_{50};
  int in_a_row_ = 0;
};

/// 20 % above the last loss that did not fire.
class AbovePreviousStep : public SpikeRule {
 public:
  bool observe(const MetricPoint& point) override {
    if (last_ && point.loss - *last_ >= 0.2 * *last_) return true;
    last_ = point.loss;
    return false;
  }

 private:
  std::optional<double> last_;
};

/// Wortsman et al. (arXiv:2304.13013): above mean + 3.2 standard deviations at least twice in 10
/// samples. The window of the running mean is taken as 128.
class TwoDeviationsInTen : public SpikeRule {
 public:
  bool observe(const MetricPoint& point) override {
    const bool high = window_.full() && point.loss > window_.mean() + 3.2 * window_.deviation();
    recent_.push(high ? 1 : 0);
    window_.push(point.loss);
    return high && std::accumulate(recent_.values().begin(), recent_.values().end(), 0.0) >= 2;
  }

 private:
  Window window_{128};
  Window recent_{10};
};

/// An absolute limit, as in ATorch's TokenLossSpike with the numbers of its manual: over 10 after
/// step 2000.
class AbsoluteLimit : public SpikeRule {
 public:
  bool observe(const MetricPoint& point) override { return point.step > 2000 && point.loss > 10; }
};

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Robust z over the last 60 samples: median and median absolute deviation of what is left after a
/// straight line. Fires when `count` of the last `of` samples are above `sigmas`.
class RobustZ : public SpikeRule {
 public:
  RobustZ(double sigmas, std::size_t count, std::size_t of)
      : sigmas_(sigmas), count_(count), recent_(of) {}
  bool observe(const MetricPoint& point) override {
    const bool high = window_.full() && z(point.loss) > sigmas_;
    recent_.push(high ? 1 : 0);
    window_.push(point.loss);
    return high && std::accumulate(recent_.values().begin(), recent_.values().end(), 0.0) >=
                       static_cast<double>(count_);
  }

 private:
  double z(double loss) const {
    const std::vector<double> values(window_.values().begin(), window_.values().end());
    const auto half = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    const double slope =
        std::min(0.0, (median({half, values.end()}) - median({values.begin(), half})) /
                          (0.5 * static_cast<double>(values.size())));
    std::vector<double> rest;
    for (std::size_t i = 0; i < values.size(); ++i)
      rest.push_back(values[i] + slope * static_cast<double>(values.size() - i));
    const double level = median(rest);
    for (double& value : rest) value = std::abs(value - level);
    return (loss - level) / std::max(1.4826 * median(rest), 1e-9);
  }

  double sigmas_;
  std::size_t count_;
  Window recent_;
  Window window_{60};
};

template <class Rule, class... Arguments>
NamedRule named(std::string name, Arguments... arguments) {
  return {std::move(name), std::make_unique<Rule>(arguments...)};
}

}  // namespace

std::vector<NamedRule> published_rules() {
  std::vector<NamedRule> rules;
  rules.push_back(named<OlmoSkipStep>("OLMo-core SkipStep, 6 sigma of 128, loss + grad norm",
                                      OlmoSkipStep::Signals::kLossAndGradNorm));
  rules.push_back(
      named<OlmoSkipStep>("OLMo-core SkipStep, loss only", OlmoSkipStep::Signals::kLoss));
  rules.push_back(
      named<FoundryKillLossSpike>("llm-foundry KillLossSpike, 2 x mean 100, 5 in a row"));
  rules.push_back(named<MegatronSpikyLoss>("Megatron-LM, 10 x max of the first 100"));
  rules.push_back(named<LightningSpikeDetection>("Lightning SpikeDetection, 3 x mean 10"));
  rules.push_back(named<ThreeTimesEma>("entrenar, 3 x EMA"));
  rules.push_back(named<KsuitSkip>("ksuit, 1.2 x mean 50 accepted"));
  rules.push_back(named<AbovePreviousStep>("20 % above the last accepted step"));
  rules.push_back(named<TwoDeviationsInTen>("mean + 3.2 sigma, 2 in 10"));
  rules.push_back(named<AbsoluteLimit>("ATorch TokenLossSpike, over 10 after step 2000"));
  rules.push_back(named<RobustZ>("robust z > 8 (median/MAD 60)", 8.0, 1U, 1U));
  rules.push_back(named<RobustZ>("robust z > 6, 2 of 3", 6.0, 2U, 3U));
  return rules;
}

}  // namespace tenax::bench
