// The convolutions' kernels for AVX2 and FMA.
#include "conv_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
// Everything below may use the instructions, so nothing below may be shared with another file: no
// templates of the standard library, only what lies in the unnamed namespace.
#pragma GCC target("avx2,fma,f16c")
#define ACCEL_ISA_AVX2
#define ACCEL_ISA_NAME "avx2"
namespace accel {
namespace {
#include "conv_vec.h"
//
#include "conv_micro.h"
//
#include "conv_isa.h"
}  // namespace
const ConvKernels* conv_avx2() { return &kTable; }
}  // namespace accel
#else
namespace accel {
const ConvKernels* conv_avx2() { return nullptr; }
}  // namespace accel
#endif
