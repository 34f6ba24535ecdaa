// Runs the steps of a graph; every operand lies where graph.cpp found it may.
#include <algorithm>

#define ACCEL_VECTOR_CODE "graph_rows.h"
#include "graph_steps.h"
#include "simd.h"

namespace accel::graph {
namespace {

constexpr double kWorthThread = 1e6;  // multiply-adds; below, waking a thread costs more

thread_local Kept scratch;

struct Runner {
  float* const* base;
  int threads;

  void execute(const Product& p) const {
    const ProductStep s{picture(p.x),  picture(p.y), Source(p.source), p.window,      p.depth,
                        at(p.weights), at(p.taps),   ending(p.first),  ending(p.last)};
    const int64_t chunk = ACCEL_WIDEST(product_chunk(s));
    const int64_t floats = s.source == kDirect ? 0 : chunk * s.depth;
    const double work = double(s.y.pixels()) * s.depth * s.y.channels;
    shared(s.y.pixels(), chunk, work, [&](int64_t first, int64_t count) {
      ACCEL_WIDEST(product(s, first, count, scratch.get(floats)));
    });
  }
  void execute(const Depthwise& p) const {
    const Picture x = picture(p.x), y = picture(p.y);
    const Ending last = ending(p.last);
    const double work = double(y.pixels()) * y.channels * p.window.height * p.window.width;
    shared(y.pixels(), std::max<int64_t>(1, y.width), work, [&](int64_t first, int64_t count) {
      ACCEL_WIDEST(depthwise(x, y, p.window, at(p.taps), last, first, count,
                             y.data + first * y.step, y.step));
    });
  }
  void execute(const Pool& p) const {
    const PoolStep s{picture(p.x), picture(p.y), p.window, p.largest, p.count_zeros};
    const double work = double(s.y.pixels()) * s.y.channels * p.window.height * p.window.width;
    shared(s.y.pixels(), 64, work,
           [&](int64_t first, int64_t count) { ACCEL_WIDEST(pool(s, first, count)); });
  }
  void execute(const Combine& p) const {
    const BinaryStep s{picture(p.a), p.b ? picture(*p.b) : Picture{}, picture(p.y), p.kind,
                       ending(p.last)};
    shared(s.y.pixels(), 256, 4.0 * s.y.pixels() * s.y.channels,
           [&](int64_t first, int64_t count) { ACCEL_WIDEST(binary(s, first, count)); });
  }
  void execute(const Norm& p) const {
    NormStep s{picture(p.x), picture(p.y), nullptr, nullptr, 0, p.epsilon, ending(p.last)};
    if (p.scale) s.scale = base[(*p.scale)[0]] + (*p.scale)[1];
    if (p.shift) s.shift = base[(*p.shift)[0]] + (*p.shift)[1];
    if (p.scale || p.shift) {
      const Operand& affine = p.scale ? *p.scale : *p.shift;
      s.affine_step = affine[2] * affine[3] * affine[4] > 1 ? affine[6] : 0;
    }
    channels(s.x, 8, [&](int64_t image, int64_t c) { ACCEL_WIDEST(norm(s, image, c)); });
  }
  void execute(const Mean& p) const {
    const MeanStep s{picture(p.x), picture(p.y)};
    channels(s.x, 1, [&](int64_t image, int64_t c) { ACCEL_WIDEST(mean(s, image, c)); });
  }
  // Calls f(image, first channel) for groups of kGroup vectors of channels.
  template <typename F>
  void channels(const Picture& x, double effort, const F& f) const {
    const int64_t wide = simd_lanes() * wide4::kGroup, groups = (x.channels + wide - 1) / wide;
    shared(x.count * groups, 1, effort * x.pixels() * x.channels,
           [&](int64_t first, int64_t count) {
             for (int64_t i = first; i < first + count; ++i) f(i / groups, i % groups * wide);
           });
  }
  void execute(const Resize& p) const {
    const ResizeStep s{picture(p.x), picture(p.y), table(p.r0),    table(p.r1),
                       table(p.c0),  table(p.c1),  at(p.row_part), at(p.column_part)};
    shared(s.y.count * s.y.height, 1, 4.0 * s.y.pixels() * s.y.channels,
           [&](int64_t first, int64_t count) {
             for (int64_t i = first; i < first + count; ++i) ACCEL_WIDEST(resize(s, i));
           });
  }
  void execute(const Fold& p) const {
    const FoldStep s{picture(p.x), picture(p.y), p.window, ending(p.last)};
    shared(s.y.pixels(), 64, 1.0 * s.x.pixels() * s.x.channels,
           [&](int64_t first, int64_t count) { ACCEL_WIDEST(fold(s, first, count)); });
  }
  void execute(const Lines& p) const {
    const Picture x = picture(p.x);
    const LineStep s{x.data, base[p.y[0]] + p.y[1], x.channels, p.kind};
    shared(x.pixels(), 16, 8.0 * x.pixels() * x.channels, [&](int64_t first, int64_t count) {
      for (int64_t i = first; i < first + count; ++i) ACCEL_WIDEST(line(s, i));
    });
  }
  void execute(const Copy& p) const {
    const float* from = base[p.from_slot] + p.from;
    float* to = base[p.to_slot] + p.to;
    const size_t rank = p.sizes.size();
    if (rank == 1) return copy_dimension(p, 0, from, to);
    if (rank == 2 && turns(p)) {
      const int64_t a = p.from_steps[1], b = p.to_steps[0];
      return shared(p.sizes[0], 32, 2.0 * p.sizes[0] * p.sizes[1],
                    [&](int64_t first, int64_t count) {
                      wide4::turn(from + first, a, to + first * b, b, count, p.sizes[1]);
                    });
    }
    double floats = 1;
    for (int64_t size : p.sizes) floats *= double(size);
    shared(p.sizes[0], 16, 2 * floats, [&](int64_t first, int64_t count) {
      for (int64_t i = first; i < first + count; ++i)
        copy_dimension(p, 1, from + i * p.from_steps[0], to + i * p.to_steps[0]);
    });
  }
  // Whether the last two dimensions change places: rows of `from` are columns of `to`.
  static bool turns(const Copy& p) {
    const size_t i = p.sizes.size() - 2;
    return p.from_steps[i] == 1 && p.to_steps[i + 1] == 1;
  }
  static void copy_dimension(const Copy& p, size_t i, const float* from, float* to) {
    const int64_t size = p.sizes[i], a = p.from_steps[i], b = p.to_steps[i];
    if (i + 2 == p.sizes.size() && turns(p)) {
      wide4::turn(from, p.from_steps[i + 1], to, b, size, p.sizes[i + 1]);
    } else if (i + 1 < p.sizes.size()) {
      for (int64_t k = 0; k < size; ++k) copy_dimension(p, i + 1, from + k * a, to + k * b);
    } else if (a == 1 && b == 1) {
      std::copy_n(from, size, to);
    } else {
      for (int64_t k = 0; k < size; ++k) to[k * b] = from[k * a];
    }
  }
  void execute(const Fill& p) const {
    const Picture y = picture(p.y);
    for (int64_t i = 0; i < y.pixels(); ++i) std::fill_n(y.data + i * y.step, y.channels, p.value);
  }

 private:
  Picture picture(const Operand& o) const {
    return {base[o[0]] + o[1], o[2], o[3], o[4], o[5], o[6]};
  }
  const float* at(const Span& s) const { return base[s[0]] + s[1]; }
  const float* at(const std::optional<Span>& s) const { return s ? at(*s) : nullptr; }
  const int32_t* table(const Span& s) const {
    return reinterpret_cast<const int32_t*>(base[s[0]]) + s[1];
  }
  Ending ending(const Finish& f) const {
    Ending e{at(f.bias), at(f.slope), nullptr, 0, 0, f.activation, f.alpha, f.beta};
    if (f.residual) {
      const Picture r = picture(*f.residual);
      e.residual = r.data, e.residual_step = r.step, e.residual_channels = r.channels;
    }
    return e;
  }

  // Calls f(first, count) for stretches of `items`; each item's result is its own.
  template <typename F>
  void shared(int64_t items, int64_t stretch, double work, const F& f) const {
    const int team = int(std::clamp<double>(work / kWorthThread, 1, threads));
    if (team > 1) stretch = std::min(stretch, (items + team - 1) / team);
    const int64_t parts = (items + stretch - 1) / stretch;
#pragma omp parallel for num_threads(team) schedule(dynamic) if (team > 1)
    for (int64_t i = 0; i < parts; ++i) f(i * stretch, std::min(stretch, items - i * stretch));
  }
};

}  // namespace

int64_t whole_vectors(int64_t channels) {
  const int64_t lanes = simd_lanes();
  return (channels + lanes - 1) / lanes * lanes;
}

void run(const std::vector<Step>& steps, int64_t first, int64_t last, float* const* base,
         int threads) {
  const Runner runner{base, threads};
  for (int64_t i = first; i < last; ++i)
    std::visit([&](const auto& step) { runner.execute(step); }, steps[i]);
}

}  // namespace accel::graph
