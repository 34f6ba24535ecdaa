// Softmax attention on the CPU without ever holding the whole score matrix.
#include "attention.h"

#include <nanobind/stl/optional.h>

#include <atomic>
#include <cstdlib>
#include <optional>
#include <string>
#include <type_traits>

#define ACCEL_VECTOR_CODE "attention_tiles.h"
#include "binding.h"
#include "simd.h"

namespace accel {
namespace {

constexpr int64_t kQueries = 192;         // that a thread takes at a time: attend() wants these
constexpr int64_t kRefusedTogether = 32;  // queries that AttentionTiles refuses together
constexpr int64_t kKeysPacked = 512;      // that a thread takes at a time
constexpr int64_t kNear = 1 << 18;        // floats of packed heads that are worked on together
constexpr int64_t kMany = 4;              // blocks of heads for each thread: one more weighs little
constexpr int64_t kWorthThreads = 1 << 20;  // multiplications; below, starting threads costs more

void check(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("attention: ") + what);
}

struct Whole {
  const float *q, *k, *v;
  float* out;
  int64_t batch, heads, dim, queries, keys;
  int64_t q_step[3], k_step[3], v_step[3], out_step[3];  // batch, head, row; the last is 1
  float scale;
  bool causal;
  int64_t values;         // the width of v and out
  const float* added;     // to the scores, or null
  int64_t added_count;    // of batches that have their own; then they begin again
  int64_t added_step[3];  // batch, head, row

  AttentionHead head(int64_t unit) const {
    const int64_t b = unit / heads, h = unit % heads;
    return {q + b * q_step[0] + h * q_step[1],
            k + b * k_step[0] + h * k_step[1],
            v + b * v_step[0] + h * v_step[1],
            out + b * out_step[0] + h * out_step[1],
            q_step[2],
            k_step[2],
            v_step[2],
            out_step[2],
            queries,
            keys,
            dim,
            scale,
            causal,
            values,
            added ? added + b % added_count * added_step[0] + h * added_step[1] : nullptr,
            added_step[2]};
  }
};

thread_local Kept scratch;

int64_t parts(int64_t count, int64_t each) { return (count + each - 1) / each; }

// Heads are worked on in blocks: as many as stay near when they are packed. With few keys that is
// many heads, so that queries are read, and results written, row by row.
struct Sharing {
  int64_t units, heads, blocks;  // heads in all, of a block; blocks
  int team;
  bool apart;  // a thread takes whole blocks; else all threads share each

  Sharing(const Whole& all, int64_t size, int threads) : units(all.batch * all.heads) {
    const int64_t near = kNear / size;
    heads = near < 1 ? 1 : near < units ? near : units;
    blocks = parts(units, heads);
    team = double(units) * all.queries * all.keys * all.dim < kWorthThreads ? 1 : threads;
    apart = team == 1 || blocks % team == 0 || blocks >= kMany * team;
  }
};

// pack(unit, first, last, place) and attend(unit, first, last, place) get `size` floats for each
// head of a block.
template <typename Pack, typename Attend>
void share_out(const Whole& all, const Sharing& sharing, int64_t size, int64_t queries,
               const Pack& pack, const Attend& attend) {
  const int64_t shares = parts(all.queries, queries), pieces = parts(all.keys, kKeysPacked);
  const Floats packed(size * sharing.heads * (sharing.apart ? sharing.team : 1));
  const auto count = [&](int64_t block) {
    const int64_t left = sharing.units - block * sharing.heads;
    return left < sharing.heads ? left : sharing.heads;
  };
  const auto pack_piece = [&](int64_t block, int64_t i, float* to) {
    const int64_t at = i % pieces * kKeysPacked, end = at + kKeysPacked;
    pack(block * sharing.heads + i / pieces, at, end < all.keys ? end : all.keys,
         to + i / pieces * size);
  };
  const auto attend_share = [&](int64_t block, int64_t i, const float* from) {
    const int64_t head = i % count(block), at = i / count(block) * queries, end = at + queries;
    attend(block * sharing.heads + head, at, end < all.queries ? end : all.queries,
           from + head * size);
  };
  if (sharing.apart) {
    std::atomic<int> taken{0};
#pragma omp parallel num_threads(sharing.team)
    {
      float* const own = packed.data + size * sharing.heads * taken++;
#pragma omp for schedule(dynamic)
      for (int64_t block = 0; block < sharing.blocks; ++block) {
        for (int64_t i = 0; i < count(block) * pieces; ++i) pack_piece(block, i, own);
        for (int64_t i = 0; i < count(block) * shares; ++i) attend_share(block, i, own);
      }
    }
    return;
  }
#pragma omp parallel num_threads(sharing.team)
  for (int64_t block = 0; block < sharing.blocks; ++block) {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < count(block) * pieces; ++i) pack_piece(block, i, packed.data);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < count(block) * shares; ++i) attend_share(block, i, packed.data);
  }
}

void run_vectors(const Whole& all, int threads) {
  const int64_t packed = ACCEL_WIDEST(packed_floats(all.keys, all.dim, all.values));
  const int64_t size = parts(packed, 16) * 16;
  const int64_t own = ACCEL_WIDEST(scratch_floats(all.dim, all.values));
  share_out(
      all, Sharing(all, size, threads), size, kQueries,
      [&](int64_t unit, int64_t first, int64_t last, float* to) {
        ACCEL_WIDEST(pack(all.head(unit), first, last, to));
      },
      [&](int64_t unit, int64_t first, int64_t last, const float* packed) {
        ACCEL_WIDEST(attend(all.head(unit), packed, first, last, scratch.get(own)));
      });
}

// Queries that tiles refused, rare as they are: their head is packed for them alone.
void attend_refused(const AttentionHead& head, uint32_t refused, int64_t first, int64_t last) {
  const Floats packed(ACCEL_WIDEST(packed_floats(head.keys, head.dim, head.values)));
  const Floats own(ACCEL_WIDEST(scratch_floats(head.dim, head.values)));
  ACCEL_WIDEST(pack(head, 0, head.keys, packed.data));
  for (int64_t at = first; at < last; at += kRefusedTogether, refused >>= 1)
    if (refused & 1) {
      const int64_t end = at + kRefusedTogether;
      ACCEL_WIDEST(attend(head, packed.data, at, end < last ? end : last, own.data));
    }
}

// As many as are best worked on together, or fewer where threads share a block: all have the same
// number of equal shares then.
int64_t queries_together(const AttentionTiles& tiles, const Whole& all, const Sharing& sharing) {
  const int64_t best = tiles.group(all.keys, all.dim);
  if (sharing.apart) return best;
  int64_t shares = parts(all.queries, best);
  while (shares * sharing.heads % sharing.team && all.queries > shares * kRefusedTogether) ++shares;
  return parts(parts(all.queries, shares), kRefusedTogether) * kRefusedTogether;
}

void run_tiles(const AttentionTiles& tiles, const Whole& all, int threads) {
  // Before a head's cut keys and values: the largest of each, block by block.
  const int64_t blocks = parts(all.keys, kKeysPacked), before = parts(2 * blocks, 16) * 16;
  const int64_t size = before + parts(tiles.packed_bytes(all.keys, all.dim), 64) * 16;
  const int64_t own = tiles.scratch_bytes(all.keys, all.dim) / 4;
  const Sharing sharing(all, size, threads);
  share_out(
      all, sharing, size, queries_together(tiles, all, sharing),
      [&](int64_t unit, int64_t first, int64_t last, float* to) {
        tiles.pack(all.head(unit), first, last, reinterpret_cast<char*>(to + before),
                   to + first / kKeysPacked * 2);
      },
      [&](int64_t unit, int64_t first, int64_t last, const float* packed) {
        float most[2] = {};
        for (int64_t i = 0; i < 2 * blocks; ++i)
          most[i % 2] = packed[i] > most[i % 2] ? packed[i] : most[i % 2];
        const AttentionHead head = all.head(unit);
        const uint32_t refused =
            tiles.attend(head, reinterpret_cast<const char*>(packed + before), most, first, last,
                         reinterpret_cast<char*>(scratch.get(own)));
        if (refused) attend_refused(head, refused, first, last);
      });
}

// ACCEL_CONV_ISA and ACCEL_LANES ask for less than the processor has.
const AttentionTiles* tiles() {
  static const AttentionTiles* const chosen = [] {
    const char* wanted = std::getenv("ACCEL_CONV_ISA");
    const bool asked = !wanted || !*wanted || std::string(wanted) == "amx";
    return asked && simd_lanes() == 16 ? attention_tiles() : nullptr;
  }();
  return chosen;
}

void steps(const ConstArray& a, int64_t* into) {
  for (int i = 0; i < 3; ++i) into[i] = a.stride(i);
}

bool side_by_side(const ConstArray& a) {
  return a.ndim() == 4 && a.dtype() == nb::dtype<float>() && (a.shape(3) < 2 || a.stride(3) == 1);
}

// Sizes of one do for all batches, heads or queries.
void add(Whole& all, const ConstArray& added) {
  check(side_by_side(added), "added must be float32 [B, H, L, M] with M side by side");
  check(added.shape(0) && all.batch % int64_t(added.shape(0)) == 0,
        "added must be for all batches, or for so many that all are a multiple of them");
  check(added.shape(1) == 1 || int64_t(added.shape(1)) == all.heads, "added must fit the heads");
  check(added.shape(2) == 1 || int64_t(added.shape(2)) == all.queries, "added must fit q");
  check(int64_t(added.shape(3)) == all.keys, "added must fit k");
  all.added = static_cast<const float*>(added.data());
  all.added_count = int64_t(added.shape(0));
  for (int i = 0; i < 3; ++i) all.added_step[i] = added.shape(i) == 1 ? 0 : added.stride(i);
}

// q [B, H, L, D], k [B, H, M, D], v [B, H, M, E], out [B, H, L, E]: float32, the last dimension
// side by side.
void attention_cpu(ConstArray q, ConstArray k, ConstArray v, Array out, double scale, bool causal,
                   int threads, std::optional<ConstArray> added) {
  for (const ConstArray* a : {&q, &k, &v})
    check(side_by_side(*a), "q, k, v must be float32 [B, H, L, D] with D side by side");
  check(out.ndim() == 4 && out.dtype() == nb::dtype<float>() &&
            (out.shape(3) < 2 || out.stride(3) == 1),
        "out must be float32 with D side by side");
  for (int i = 0; i < 4; ++i) {
    check(out.shape(i) == (i < 3 ? q : v).shape(i), "out must have the shape of q, as wide as v");
    check(i == 3 || k.shape(i) == v.shape(i), "k and v must have one shape but for their width");
    check(i == 2 || q.shape(i) == k.shape(i), "q and k must agree but for their length");
  }
  if (!q.size() || !v.size()) return;
  Whole all{};
  all.q = static_cast<const float*>(q.data()), all.k = static_cast<const float*>(k.data());
  all.v = static_cast<const float*>(v.data()), all.out = static_cast<float*>(out.data());
  all.batch = int64_t(q.shape(0)), all.heads = int64_t(q.shape(1));
  all.queries = int64_t(q.shape(2)), all.dim = int64_t(q.shape(3));
  all.keys = int64_t(k.shape(2)), all.values = int64_t(v.shape(3));
  all.scale = float(scale * 1.4426950408889634), all.causal = causal;
  steps(q, all.q_step), steps(k, all.k_step), steps(v, all.v_step);
  for (int i = 0; i < 3; ++i) all.out_step[i] = out.stride(i);
  if (added) add(all, *added);
  nb::gil_scoped_release unlocked;
  const bool same = all.values == all.dim && !all.added;
  if (same && tiles() && tiles()->takes(all.keys, all.dim))
    run_tiles(*tiles(), all, threads);
  else
    run_vectors(all, threads);
}

}  // namespace
}  // namespace accel

ACCEL_BIND(attention) {
  m.def("attention", &accel::attention_cpu, "q"_a, "k"_a, "v"_a, "out"_a, "scale"_a, "causal"_a,
        "threads"_a, "added"_a.none() = nb::none());
}
