// TENAX_CHECK: ends the process on a programmer's error. Never for input, network or disk: those
// return a Result.
#pragma once

namespace tenax::internal {
[[noreturn]] void check_failed(const char* condition, const char* file, int line);
}

#define TENAX_CHECK(condition)                                         \
  do {                                                                 \
    if (!(condition)) [[unlikely]]                                     \
      ::tenax::internal::check_failed(#condition, __FILE__, __LINE__); \
  } while (false)
