// Huge pages for large blocks of memory: fewer misses of the address cache, and neighbours that lie
// side by side in the processor's caches too.
#pragma once

#include <sys/mman.h>

#include <cstddef>

namespace tenax {

inline constexpr std::size_t kHugePage = std::size_t{2} << 20;

/// Asks for huge pages where `data` covers whole ones. A wish: a kernel may not have them, and
/// nothing depends on it.
inline void want_huge_pages(void* data, std::size_t bytes) {
  ::madvise(data, bytes, MADV_HUGEPAGE);
}

}  // namespace tenax
