// Two-dimensional convolution and matrix products of float32 on the CPU.
//
// Few input or output channels are summed directly (conv_direct.h). Where a processor has tile
// registers, everything else is a product on those (conv_split.h). Elsewhere 3x3 with stride 1 goes
// through Winograd's F(4x4) (conv_winograd.h), the rest through one packed matrix product over
// [taps, channels] (conv_product.h). Weights stay as torch keeps them: a panel of output channels
// and a block of input channels is packed where it is used, in cache. That costs a few per cent of
// the arithmetic on large maps, needs no second copy of a network and no preparation, and on small
// maps reads a quarter of what weights expanded for Winograd would.
//
// Every sum runs over blocks of input channels whose size follows from the shape of the weights
// alone, so the bytes of an image do not depend on the batch around it nor on the threads.
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "binding.h"
#include "conv_kernels.h"
#include "conv_tiles.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace accel {
namespace {
#include "conv_problem.h"
//
#include "conv_winograd.h"
//
#include "conv_product.h"
//
#include "conv_direct.h"
//
#include "conv_split.h"

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::c_contig, nb::device::cpu>;

const ConvKernels* choose() {
  const char* wanted = std::getenv("ACCEL_CONV_ISA");
  const auto takes = [&](const ConvKernels* k) {
    return k && (!wanted || !*wanted || std::string(wanted) == k->name ||
                 (std::string(wanted) == "amx" && k == conv_avx512()));
  };
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  if (takes(conv_avx512()) && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw"))
    return conv_avx512();
  if (takes(conv_avx2()) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return conv_avx2();
#endif
  return conv_plain();
}

const ConvKernels& kernels() {
  static const ConvKernels* const chosen = choose();
  return *chosen;
}

// Tile registers serve beside the vectors of AVX-512, whose panels are as wide.
const TileKernels* choose_tiles() {
  const char* wanted = std::getenv("ACCEL_CONV_ISA");
  if (wanted && *wanted && std::string(wanted) != "amx") return nullptr;
  return &kernels() == conv_avx512() && kernels().panel == kTileWide ? conv_amx() : nullptr;
}

const TileKernels* tiles() {
  static const TileKernels* const chosen = choose_tiles();
  return chosen;
}

// ---- layouts and the binding -------------------------------------------------------------------

// [N, rows, columns] -> [N, columns, rows]
void turn_all(const ConvKernels& k, const float* in, float* out, int64_t count, int64_t rows,
              int64_t columns, int threads) {
  const int64_t strip = 64, strips = ceil_div(columns, strip);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t i = 0; i < count * strips; ++i) {
    const int64_t image = i / strips, at = i % strips * strip;
    k.turn(in + image * rows * columns + at, columns, rows, std::min(strip, columns - at),
           out + (image * columns + at) * rows, rows);
  }
}

bool same_pixels(const Problem& p) {
  return p.kernel_h == 1 && p.kernel_w == 1 && p.stride == 1 && p.pad == 0;
}

// Turns contiguous pictures to channels-last and the result back.
template <typename Form>
void run_turned(Problem p, const Form& form) {
  const ConvKernels& k = kernels();
  const int64_t in_size = p.height * p.width, out_size = p.out_height * p.out_width;
  float* const y = p.y;
  if (p.planes && in_size > 1) {
    float* x = turned_in.get(p.count * in_size * p.inputs);
    turn_all(k, p.x, x, p.count, p.inputs, in_size, p.threads);
    p.x = x;
  }
  const bool back = p.planes && out_size > 1;
  if (back) {
    p.y = turned_out.get(p.count * out_size * p.outputs);
    if (p.residual) {
      float* residual = turned_residual.get(p.count * out_size * p.outputs);
      turn_all(k, p.residual, residual, p.count, p.outputs, out_size, p.threads);
      p.residual = residual;
    }
  }
  p.planes = false;
  form(p);
  if (back) turn_all(k, p.y, y, p.count, out_size, p.outputs, p.threads);
}

void run_on_tiles(const Problem& p) { Split(kernels(), *tiles(), p).run(); }
void run_directly(const Problem& p) { Direct(kernels(), p).run(); }
void run_product(const Problem& p) { Product(kernels(), p).run(); }

void run(Problem p) {
  if (!p.count || !p.outputs || !p.out_height || !p.out_width) return;
  if (p.height * p.width == 1 && p.out_height * p.out_width == 1) p.planes = false;
  if (same_pixels(p)) {  // one long row
    p.width *= p.height, p.out_width *= p.out_height;
    p.height = p.out_height = 1;
  }
  if (Direct::takes(p)) {
    if (p.planes && p.out_width < kernels().panel / 2) return run_turned(p, run_directly);
    return run_directly(p);
  }
  if (tiles()) {
    if (p.planes && p.stride > 1 && !Split::folds(p)) return run_turned(p, run_on_tiles);
    return run_on_tiles(p);
  }
  if (p.kernel_h == 3 && p.kernel_w == 3 && p.stride == 1) return Winograd(kernels(), p).run();
  if (p.planes && same_pixels(p)) return PlaneProduct(kernels(), p).run();
  run_turned(p, run_product);
}

const float* optional(const char* name, const std::optional<Floats>& a, int64_t size) {
  if (!a) return nullptr;
  if (int64_t(a->size()) != size)
    throw std::invalid_argument(std::string("conv2d: ") + name + " is of a wrong size");
  return a->data();
}

void conv2d(Floats x, Floats w, std::optional<Floats> bias, std::optional<Floats> residual,
            Output out, int stride, int pad, float slope, bool channels_last, int threads) {
  if (x.ndim() != 4 || w.ndim() != 4 || out.ndim() != 4 || stride < 1 || pad < 0)
    throw std::invalid_argument("conv2d: x, w and out must have 4 dimensions, stride be 1 or more");
  const int h = channels_last ? 1 : 2, c = channels_last ? 3 : 1;
  Problem p = {};
  p.count = x.shape(0), p.height = x.shape(h), p.width = x.shape(h + 1), p.inputs = x.shape(c);
  p.out_height = out.shape(h), p.out_width = out.shape(h + 1), p.outputs = out.shape(c);
  p.kernel_h = int(w.shape(2)), p.kernel_w = int(w.shape(3));
  p.stride = stride, p.pad = pad, p.slope = slope, p.threads = std::max(1, threads);
  p.planes = !channels_last;
  const auto length = [&](int64_t size, int64_t kernel) {
    return (size + 2 * pad - kernel) / stride + 1;
  };
  if (int64_t(out.shape(0)) != p.count || int64_t(w.shape(0)) != p.outputs ||
      int64_t(w.shape(1)) != p.inputs || !p.kernel_h || !p.kernel_w || !p.inputs ||
      p.height + 2 * pad < p.kernel_h || p.width + 2 * pad < p.kernel_w ||
      p.out_height != length(p.height, p.kernel_h) || p.out_width != length(p.width, p.kernel_w))
    throw std::invalid_argument("conv2d: shapes of x, w and out do not fit each other");
  const int64_t each = p.count * p.outputs;
  const bool every = bias && bias->ndim() == 2;  // a bias for each image
  p.bias = optional("bias", bias, every ? each : p.outputs);
  p.bias_step = every ? p.outputs : 0;
  p.residual = optional("residual", residual, int64_t(out.size()));
  p.x = x.data(), p.w = w.data(), p.y = out.data();
  nb::gil_scoped_release unlocked;
  run(p);
}

}  // namespace
}  // namespace accel

ACCEL_BIND(conv2d) {
  m.def("conv2d", &accel::conv2d, "x"_a, "w"_a, "bias"_a.none(), "residual"_a.none(), "out"_a,
        "stride"_a, "pad"_a, "slope"_a, "channels_last"_a, "threads"_a);
  m.def(
      "conv_isa", [] { return accel::tiles() ? "amx" : accel::kernels().name; },
      "Instruction set that the convolutions use here.");
}
