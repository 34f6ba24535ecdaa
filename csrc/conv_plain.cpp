// The convolutions' kernels in plain C++, for every other processor and compiler.
#include <cstring>

#include "conv_kernels.h"

#define ACCEL_ISA_NAME "plain"
namespace accel {
namespace {
#include "conv_vec.h"
//
#include "conv_micro.h"
//
#include "conv_isa.h"
}  // namespace
const ConvKernels* conv_plain() { return &kTable; }
}  // namespace accel
