#include "actors/handler_watch.h"

namespace tenax::actors {

namespace {

std::atomic<Duration::rep> longest{0};

}  // namespace

Duration longest_handler() { return Duration(longest.load(std::memory_order_relaxed)); }

void note_handler(Duration took) {
  Duration::rep known = longest.load(std::memory_order_relaxed);
  while (took.count() > known &&
         !longest.compare_exchange_weak(known, took.count(), std::memory_order_relaxed)) {
  }
}

}  // namespace tenax::actors
