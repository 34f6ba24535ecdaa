// Large memory in large pages, where the system gives them: an address is found with fewer lookups.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(_WIN32)
#include <malloc.h>
#endif

namespace accel {

constexpr size_t kPage = size_t(2) << 20;  // of the kind the system is asked for

// `bytes` of memory that begins at a multiple of `align`, a power of two. Large pages are asked for
// where it begins with one; without them pages are small.
inline void* map_pages(size_t bytes, size_t align) {
#if defined(_WIN32)
  void* data = _aligned_malloc(bytes, align);
#else
  void* data = nullptr;
  if (posix_memalign(&data, align, bytes)) data = nullptr;
#endif
  if (!data) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (align >= kPage) madvise(data, bytes, MADV_HUGEPAGE);
#endif
  return data;
}

inline void unmap_pages(void* data) {
#if defined(_WIN32)
  _aligned_free(data);
#else
  std::free(data);
#endif
}

}  // namespace accel
