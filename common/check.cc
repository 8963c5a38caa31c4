#include "common/check.h"

#include <cstdio>
#include <cstdlib>

namespace tenax::internal {

void check_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "tenax: bug: %s:%d: check failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace tenax::internal
