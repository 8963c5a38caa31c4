// The loss-spike rules of published training code and papers, each as a small class, to run beside
// the detector of scheduler/ on the same curves. Written from their descriptions;
// docs/loss-spikes.md names the sources. Values.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "scheduler/spike_event.h"

namespace tenax::bench {

class SpikeRule {
 public:
  virtual ~SpikeRule() = default;
  /// Whether the rule fires on this sample. Samples come in the order of their steps.
  virtual bool observe(const scheduler::MetricPoint& point) = 0;
};

struct NamedRule {
  std::string name;
  std::unique_ptr<SpikeRule> rule;
};

/// All published rules, fresh, with their default numbers.
std::vector<NamedRule> published_rules();

}  // namespace tenax::bench
