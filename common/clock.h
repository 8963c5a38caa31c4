// Time as a value, and the seam through which it enters: nothing outside an implementation of Clock
// asks the system.
#pragma once

#include <chrono>
#include <string>

namespace tenax {

using Duration = std::chrono::nanoseconds;
/// Wall-clock time; journalled, shown to people, compared within one process.
using Time = std::chrono::sys_time<Duration>;

class Clock {
 public:
  virtual ~Clock() = default;
  /// Wall-clock time that never runs backwards within this process.
  virtual Time now() const = 0;
};

/// The machine's clock: wall time at construction plus the monotonic clock since. Immutable, any
/// thread.
class SystemClock final : public Clock {
 public:
  SystemClock();
  Time now() const override;

 private:
  Time wall_start_;
  std::chrono::steady_clock::time_point steady_start_;
};

inline double to_seconds(Duration d) { return std::chrono::duration<double>(d).count(); }
inline Duration from_seconds(double s) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(s));
}

/// RFC 3339 in UTC with milliseconds: "2026-11-23T14:02:02.125Z".
std::string format_time(Time t);

}  // namespace tenax
