// Measures how long the actors' message handlers take: a handler that blocks holds up everything
// that its actor is there for (A1). One figure a process, since the actors of a process share its
// scheduler's threads. Any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <utility>

#include "common/clock.h"

namespace tenax::actors {

/// The longest call so far of a handler made by `timed` in this process.
Duration longest_handler();

/// Counts towards longest_handler().
void note_handler(Duration took);

namespace detail {

template <class F, class R, class... A>
auto timed(F handler, R (F::*)(A...) const) {
  return [handler = std::move(handler)](A... message) -> R {
    struct Stopwatch {
      std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();
      ~Stopwatch() { note_handler(std::chrono::steady_clock::now() - begin); }
    } const stopwatch;
    return handler(std::forward<A>(message)...);
  };
}

}  // namespace detail

/// `handler`, a lambda for a CAF behavior, with the time of its calls noted.
template <class F>
auto timed(F handler) {
  return detail::timed(std::move(handler), &F::operator());
}

}  // namespace tenax::actors
