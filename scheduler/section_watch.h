// How long a section of a run may take before it counts as hung: learned from what it took so far,
// so that a hang of a run with short steps is found in about a second and one with steps of minutes
// is left alone. Pure values; the state is part of the run's and outlives a supervisor.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"

namespace tenax::scheduler {

enum class Section : std::uint8_t {
  kSetup = 0,      ///< from the plan until all ranks have formed, with weights from memory
  kFirstStep = 1,  ///< of a generation
  kStep = 2,
  kEvalStep = 3,   ///< with a held-out loss after it
  kAfterSave = 4,  ///< a step before which a snapshot was copied
};
std::string_view to_string(Section section);

struct SectionWatchOptions {
  double factor = 5;  ///< of the longest time seen lately; 0: only the fixed timeouts
  Duration slack = std::chrono::milliseconds(500);
  std::int64_t eval_interval = 0;        ///< steps; 0: never
  std::int64_t checkpoint_interval = 0;  ///< steps; 0: only at the end
};

struct SectionWatchState {
  std::array<std::vector<double>, 5> seconds;  ///< by Section, newest last
};

/// Which section the step after `counted_step` is.
Section section_of_next_step(const SectionWatchOptions& options, std::int64_t counted_step,
                             std::int64_t total_steps, bool first_of_generation);

void observe(SectionWatchState& state, Section section, double seconds);

struct SectionLimit {
  Duration limit{0};
  std::string reason;  ///< "5 times its longest time of late, 0.212 s, and 1.0 s"
};
/// `fallback` until the section has been seen often enough: eight steps, one of any other.
SectionLimit section_limit(const SectionWatchState& state, const SectionWatchOptions& options,
                           Section section, Duration fallback);

}  // namespace tenax::scheduler
