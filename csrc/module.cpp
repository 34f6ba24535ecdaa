// The nanobind module. Ops register themselves (binding.h); this file only runs the list.
#include <vector>

#include "binding.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace accel {
// A function-local static: it exists before any file-level Registration that uses it.
static std::vector<Binder>& binders() {
  static std::vector<Binder> list;
  return list;
}
Registration::Registration(Binder binder) { binders().push_back(binder); }
}  // namespace accel

static bool has_avx2() {
#if defined(__x86_64__) || defined(__i386__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

static int max_threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

// OpenMP keeps this number per thread, so other threads of the program are not touched.
static void limit_threads(int count) {
#ifdef _OPENMP
  omp_set_num_threads(count < 1 ? 1 : count);
#else
  (void)count;
#endif
}

NB_MODULE(_native, m) {
  m.doc() = "Native kernels of accel. Call them through accel.kernels.";
#ifndef __SANITIZE_ADDRESS__
  // A daemon thread that still holds a network when the program ends leaks nothing that counts, and
  // the user would be told of a mistake in here. The sanitized build, which looks for those, tells.
  nb::set_leak_warnings(false);
#endif
  m.def("has_avx2", &has_avx2, "Whether the AVX2 code paths are taken on this CPU.");
  m.def("max_threads", &max_threads, "Threads that a parallel kernel may use.");
  m.def("limit_threads", &limit_threads, "count"_a,
        "Limit the threads of parallel kernels that are called from this thread.");
  for (accel::Binder bind : accel::binders()) bind(m);
}
