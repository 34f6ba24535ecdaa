// Two-dimensional convolution and matrix products of float32 on the CPU; weights may be kept in 16
// bits.
//
// Few input or output channels are summed directly (conv_direct.h); 3x3 with stride 1 with half of
// the multiplications (conv_columns.h). Where a processor has tile
// registers, everything else is a product on those (conv_split.h). Elsewhere 3x3 with stride 1 goes
// through Winograd's F(4x4) (conv_winograd.h), the rest through packed matrix products: of pixels
// (conv_product.h) or of windows (conv_strips.h). Weights that were packed ahead are read as they
// are; others stay as torch keeps them, and a panel of output channels and a block of input
// channels is packed where it is used, in cache. That costs a few per cent of the arithmetic on
// large maps and up to a quarter on small ones, but needs no second copy of a network and no
// preparation.
//
// Every sum runs over blocks of input channels whose size follows from the shape of the weights
// alone, so the bytes of an image do not depend on the batch around it nor on the threads.
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "binding.h"
#include "conv_kernels.h"
#include "conv_tiles.h"
#include "pages.h"

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
#include "conv_strips.h"
//
#include "conv_direct.h"
//
#include "conv_columns.h"
//
#include "conv_split.h"
//
#include "conv_share.h"

using Floats = Given<const float, nb::c_contig, nb::device::cpu>;
using Output = Given<float, nb::c_contig, nb::device::cpu>;
using Kept = Given<nb::ro, nb::c_contig, nb::device::cpu>;  // weights of any of three types

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
  if (takes(conv_avx2()) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
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

Weights weights_of(const Kept& w) {
  const nb::dlpack::dtype type = w.dtype();
  const bool bfloat = type.code == uint8_t(nb::dlpack::dtype_code::Bfloat);
  const bool floating = bfloat || type.code == uint8_t(nb::dlpack::dtype_code::Float);
  if (floating && !bfloat && type.bits == 32 && type.lanes == 1)
    return {static_cast<const float*>(w.data()), nullptr, Half::kFloat16, &kernels()};
  if (!floating || type.bits != 16 || type.lanes != 1)
    throw std::invalid_argument("conv2d: w must be float32, float16 or bfloat16");
  return {nullptr, static_cast<const uint16_t*>(w.data()),
          bfloat ? Half::kBfloat16 : Half::kFloat16, &kernels()};
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

bool is_point(const Problem& p) { return p.kernel_h == 1 && p.kernel_w == 1 && p.pad == 0; }
bool same_pixels(const Problem& p) { return is_point(p) && p.stride == 1; }

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

bool is_winograds(const Problem& p) { return p.kernel_h == 3 && p.kernel_w == 3 && p.stride == 1; }

// Whether tile registers are there and the quickest: sums so short are cut into three parts and
// cost six products on them, of which few outputs or very few inputs leave much empty.
bool is_for_tiles(const Problem& p) {
  if (!tiles()) return false;
  const bool is_short = p.kernel_h == 1 && p.kernel_w == 1 && p.inputs <= kShortSum;
  return !is_short || (p.outputs > 64 && p.inputs > 16);
}

// f(the form of the convolution that takes the problem)
template <typename F>
void with_form(const Problem& p, const F& f) {
  if (Columns::takes(p)) return f(Columns(kernels(), p));
  if (Direct::takes(p)) return f(Direct(kernels(), p));
  if (is_for_tiles(p)) return f(Share(kernels(), *tiles(), p));
  if (is_winograds(p)) return f(Winograd(kernels(), p));
  if (p.planes && is_point(p)) return f(PlaneProduct(kernels(), p));
  if (same_pixels(p)) return f(Product(kernels(), p));
  f(Strips(kernels(), p));
}

// Whether that form takes pictures only channels-last.
bool needs_turning(const Problem& p) {
  if (Direct::takes(p)) return p.out_width < kernels().panel / 2;
  if (is_for_tiles(p)) return p.stride > 1;
  // Pixels that leave much of their last panel empty are better rows of the product than columns.
  const int64_t size = p.height * p.width;
  return same_pixels(p) && 5 * round_up(size, kernels().panel) > 6 * size;
}

void run(Problem p) {
  if (!p.count || !p.outputs || !p.out_height || !p.out_width) return;
  if (p.height * p.width == 1 && p.out_height * p.out_width == 1) p.planes = false;
  if (same_pixels(p)) {  // one long row
    p.width *= p.height, p.out_width *= p.out_height;
    p.height = p.out_height = 1;
  }
  const auto go = [](const Problem& p) { with_form(p, [](auto form) { form.run(); }); };
  p.planes&& needs_turning(p) ? run_turned(p, go) : go(p);
}

// ---- weights packed ahead: once for all calls, in the order of the form that will run them

using Flat = Given<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Of one window: the order follows from the weights and the stride alone.
Problem packing_of(Problem p) {
  p.count = 1, p.height = p.kernel_h, p.width = p.kernel_w, p.out_height = p.out_width = 1;
  p.pad = 0, p.planes = false, p.packed = nullptr;
  return p;
}

Problem packing_of(const Kept& w, int stride) {
  if (stride < 1 || !w.size() || w.ndim() != 4)
    throw std::invalid_argument("conv_pack: w must be 4-D, not empty, and stride be 1 or more");
  Problem p = {};
  p.outputs = w.shape(0), p.inputs = w.shape(1);
  p.kernel_h = int(w.shape(2)), p.kernel_w = int(w.shape(3));
  p.w = weights_of(w), p.stride = stride, p.threads = 1;
  return packing_of(p);
}

int64_t form_floats(const Problem& p) {
  int64_t floats = 0;
  with_form(p, [&](auto form) { floats = form.packed_floats(); });
  return floats;
}

// Some weights as they were lie behind the packed ones, to tell when all have been changed.
constexpr int64_t kSamples = 64;

int64_t packed_floats(const Problem& p) {
  const int64_t floats = form_floats(p);
  return floats ? floats + kSamples : 0;
}

void take_samples(const Problem& p, float* to) {
  const int64_t size = p.outputs * p.inputs * p.kernel_h * p.kernel_w;
  for (int64_t i = 0; i < kSamples; ++i) to[i] = p.w[size * i / kSamples];
}

bool still_packed(const Problem& p, const float* packed) {
  float now[kSamples];
  take_samples(p, now);
  return !std::memcmp(now, packed + form_floats(p), sizeof now);
}

void check_packed(const char* name, const void* data, size_t size, const Problem& p) {
  if (int64_t(size) != packed_floats(p) || reinterpret_cast<uintptr_t>(data) % kAlign)
    throw std::invalid_argument(std::string(name) + " must have the size that conv_packed_floats" +
                                " gives, and lie at a multiple of 64 bytes");
}

void conv_pack(Kept w, int stride, Flat out, int threads) {
  Problem p = packing_of(w, stride);
  p.threads = std::max(1, threads);
  check_packed("conv_pack: out", out.data(), out.size(), p);
  float* to = out.data();
  nb::gil_scoped_release unlocked;
  with_form(p, [&](auto form) { form.pack(to); });
  take_samples(p, to + form_floats(p));
}

const float* optional(const char* name, const std::optional<Floats>& a, int64_t size) {
  if (!a) return nullptr;
  if (int64_t(a->size()) != size)
    throw std::invalid_argument(std::string("conv2d: ") + name + " is of a wrong size");
  return a->data();
}

void conv2d(Floats x, Kept w, std::optional<Floats> bias, std::optional<Floats> residual,
            Output out, int stride, int pad, float slope, bool channels_last, int threads,
            std::optional<Floats> packed) {
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
  p.x = x.data(), p.w = weights_of(w), p.y = out.data();
  if (packed) {
    check_packed("conv2d: packed", packed->data(), packed->size(), packing_of(p));
    if (still_packed(packing_of(p), packed->data())) p.packed = packed->data();
  }
  nb::gil_scoped_release unlocked;
  run(p);
}

}  // namespace
}  // namespace accel

ACCEL_BIND(conv2d) {
  m.def("conv2d", &accel::conv2d, "x"_a, "w"_a, "bias"_a.none(), "residual"_a.none(), "out"_a,
        "stride"_a, "pad"_a, "slope"_a, "channels_last"_a, "threads"_a,
        "packed"_a.none() = nb::none());
  m.def(
      "conv_packed_floats",
      [](accel::Kept w, int stride) { return accel::packed_floats(accel::packing_of(w, stride)); },
      "w"_a, "stride"_a, "Size of the weights packed ahead; 0 where that gains nothing.");
  m.def("conv_pack", &accel::conv_pack, "w"_a, "stride"_a, "out"_a, "threads"_a,
        "Pack weights for calls of conv2d with this stride; `out` is 64-byte aligned. A call whose "
        "weights have changed since packs them itself.");
  m.def(
      "conv_isa", [] { return accel::tiles() ? "amx" : accel::kernels().name; },
      "Instruction set that the convolutions use here.");
  m.def(
      "conv_on_tiles",
      [](accel::Kept w, int stride) { return accel::is_for_tiles(accel::packing_of(w, stride)); },
      "w"_a, "stride"_a, "Whether these weights are multiplied on tile registers.");
}
