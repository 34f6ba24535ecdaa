// Deflate, undone: RFC 1951 within the frame of RFC 1950, for streams whose length is known.
//
// Anything irregular ends with false, so that a decoder that knows more cases can look at it. What
// a stream may read and write is bounded by room behind both ends, not by a test of each byte.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "clones.h"

namespace accel {

constexpr size_t kInflateRoomIn = 64;    // zeros behind the input
constexpr size_t kInflateRoomOut = 320;  // bytes behind the output that are written over

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "bits are taken from the low end");

// What the next bits of a stream mean, in one word: how many bits that takes (0..5), what it is,
// and numbers by kind. Literals: their count (8..9) and bytes (16..31). A length or a distance:
// extra bits (8..12) and base (16..31, 0 where there is no such symbol). kLonger: where the rest of
// the code is looked up (16..31).
constexpr uint32_t kBits = 63, kExtra = 31, kLiterals = 1u << 15, kEndOfBlock = 1u << 14,
                   kLonger = 1u << 13;
constexpr int kLongestCode = 15;

// PRIMARY: bits that are looked up at once; SYMBOLS: of the alphabet.
template <int PRIMARY, int SYMBOLS>
struct InflateTable {
  static constexpr int kRest = kLongestCode - PRIMARY;
  // Longer codes that begin alike share a table; in a complete code there are at least two of them.
  static constexpr int kSize = (1 << PRIMARY) + ((SYMBOLS / 2) << kRest);
  std::array<uint32_t, kSize> entries;

  uint32_t at(uint64_t bits) const {
    const uint32_t entry = entries[bits & ((1 << PRIMARY) - 1)];
    if (__builtin_expect(!(entry & kLonger), 1)) return entry;
    return entries[(entry >> 16) + ((bits >> PRIMARY) & ((1 << kRest) - 1))];
  }

  // lengths: of each symbol's code; meaning: each symbol's entry without its bits. False unless the
  // code is complete. lone: none, or one of one bit, will do as well.
  bool build(const uint8_t* lengths, int count, const uint32_t* meaning, bool lone) {
    int counts[kLongestCode + 1] = {}, left = 1;
    for (int i = 0; i < count; ++i) ++counts[lengths[i]];
    const int used = count - counts[0];
    uint32_t next[kLongestCode + 2] = {};
    counts[0] = 0;
    for (int bits = 1; bits <= kLongestCode; ++bits) {
      left = 2 * left - counts[bits];
      if (left < 0) return false;
      next[bits + 1] = (next[bits] + uint32_t(counts[bits])) << 1;
    }
    if (left > 0 && !(lone && (used == 0 || (used == 1 && counts[1] == 1)))) return false;
    std::fill(entries.begin(), entries.begin() + (1 << PRIMARY), 0);
    int free = 1 << PRIMARY;
    for (int i = 0; i < count; ++i) {
      const int bits = lengths[i];
      if (bits && !place(reversed(next[bits]++, bits), bits, meaning[i] | uint32_t(bits), free))
        return false;
    }
    return true;
  }

  bool place(uint32_t code, int bits, uint32_t entry, int& free) {
    if (bits <= PRIMARY) {
      for (uint32_t at = code; at < 1u << PRIMARY; at += 1u << bits) entries[at] = entry;
      return true;
    }
    uint32_t& first = entries[code & ((1 << PRIMARY) - 1)];
    if (!(first & kLonger)) {
      if (free + (1 << kRest) > kSize) return false;
      first = kLonger | uint32_t(free) << 16, free += 1 << kRest;
    }
    uint32_t* rest = &entries[first >> 16];
    for (uint32_t at = code >> PRIMARY; at < 1u << kRest; at += 1u << (bits - PRIMARY))
      rest[at] = entry;
    return true;
  }

  // Where two literals fit into the bits that are looked up, one entry tells of both.
  void join_literals() {
    for (uint32_t at = 1 << PRIMARY; at-- > 0;) {  // what follows stands before: it is single yet
      const uint32_t one = entries[at], bits = one & kBits;
      if (!(one & kLiterals)) continue;
      const uint32_t other = entries[at >> bits];
      if (!(other & kLiterals) || bits + (other & kBits) > uint32_t(PRIMARY)) continue;
      entries[at] = kLiterals | 2 << 8 | (bits + (other & kBits)) | (one & 0xff0000) |
                    ((other & 0xff0000) << 8);
    }
  }

  static uint32_t reversed(uint32_t code, int bits) {
    uint32_t result = 0;
    for (int i = 0; i < bits; ++i) result |= (code >> i & 1) << (bits - 1 - i);
    return result;
  }
};

// A stream that holds `out_size` bytes, no fewer and no more.
class Inflate {
 public:
  // `in` is followed by kInflateRoomIn bytes of 0, `out` by kInflateRoomOut of any.
  Inflate(const uint8_t* in, size_t in_size, uint8_t* out, size_t out_size)
      : in_(in), in_end_(in + in_size), begin_(out), out_(out), out_end_(out + out_size) {}

  bool run() {
    if (in_end_ - in_ < 6) return false;
    const int method = in_[0], flags = in_[1];
    if ((method & 15) != 8 || method >> 4 > 7 || (method * 256 + flags) % 31 || flags & 32)
      return false;
    in_ += 2;
    for (bool is_last = false; !is_last;) {
      refill();
      if (is_overrun()) return false;
      is_last = take(1);
      const int kind = int(take(2));
      const bool good = kind == 0   ? stored()
                        : kind == 1 ? fixed() && symbols()
                        : kind == 2 ? dynamic() && symbols()
                                    : false;
      if (!good) return false;
    }
    return out_ == out_end_ && ends();
  }

 private:
  void refill() {  // to 56 bits and more
    uint64_t next;
    std::memcpy(&next, in_, 8);
    held_ |= next << count_;
    in_ += (63 - count_) >> 3;
    count_ |= 56;
  }

  uint32_t take(int bits) {
    const uint32_t value = uint32_t(held_) & ((1u << bits) - 1);
    drop(bits);
    return value;
  }

  void drop(int bits) { held_ >>= bits, count_ -= bits; }

  // Whether more was taken than there is: what lies in the room behind is 0.
  bool is_overrun() const { return in_ > in_end_ + 8; }

  // Gives back the bits of whole bytes that were not used.
  bool to_bytes() {
    drop(count_ & 7);
    in_ -= count_ >> 3;
    held_ = 0, count_ = 0;
    return in_ <= in_end_;
  }

  bool stored() {
    if (!to_bytes() || in_end_ - in_ < 4) return false;
    const size_t size = in_[0] | in_[1] << 8, complement = in_[2] | in_[3] << 8;
    in_ += 4;
    if ((size ^ complement) != 0xffff || size > size_t(in_end_ - in_) ||
        size > size_t(out_end_ - out_))
      return false;
    std::memcpy(out_, in_, size);
    in_ += size, out_ += size;
    return true;
  }

  bool fixed() {
    uint8_t lengths[288], far[32];
    for (int i = 0; i < 288; ++i) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    std::fill(far, far + 32, 5);
    return build(lengths, 288, far, 32);
  }

  bool dynamic() {
    static constexpr uint8_t kOrder[19] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                           11, 4,  12, 3, 13, 2, 14, 1, 15};
    refill();
    const int literals = int(take(5)) + 257, far = int(take(5)) + 1, codes = int(take(4)) + 4;
    if (literals > 286 || far > 30) return false;
    uint8_t lengths[286 + 30 + 138] = {}, of[19] = {};
    for (int i = 0; i < codes; ++i) {
      if (i % 8 == 0) refill();
      of[kOrder[i]] = uint8_t(take(3));
    }
    uint32_t meaning[19];
    for (uint32_t i = 0; i < 19; ++i) meaning[i] = i << 16;
    InflateTable<7, 19> table;
    if (!table.build(of, 19, meaning, false)) return false;
    for (int at = 0; at < literals + far;) {
      refill();
      if (is_overrun()) return false;
      const uint32_t entry = table.at(held_), symbol = entry >> 16;
      drop(entry & kBits);
      if (symbol < 16) {
        lengths[at++] = uint8_t(symbol);
        continue;
      }
      if (symbol == 16 && at == 0) return false;
      const int times = symbol == 16   ? 3 + int(take(2))
                        : symbol == 17 ? 3 + int(take(3))
                                       : 11 + int(take(7));
      if (at + times > literals + far) return false;
      const uint8_t value = symbol == 16 ? lengths[at - 1] : 0;
      for (int i = 0; i < times; ++i) lengths[at++] = value;
    }
    return lengths[256] && build(lengths, literals, lengths + literals, far);
  }

  bool build(const uint8_t* lengths, int literals, const uint8_t* far, int fars) {
    uint32_t meaning[288], apart[32] = {};
    for (uint32_t i = 0; i < 256; ++i) meaning[i] = kLiterals | 1 << 8 | i << 16;
    meaning[256] = kEndOfBlock;
    for (uint32_t i = 0, base = 3; i < 28; ++i) {
      const uint32_t extra = i < 8 ? 0 : i / 4 - 1;
      meaning[257 + i] = extra << 8 | base << 16;
      base += 1u << extra;
    }
    meaning[285] = 258u << 16, meaning[286] = meaning[287] = 0;
    for (uint32_t i = 0, base = 1; i < 30; ++i) {
      const uint32_t extra = i < 4 ? 0 : i / 2 - 1;
      apart[i] = extra << 8 | base << 16;
      base += 1u << extra;
    }
    if (!literals_.build(lengths, literals, meaning, false) ||
        !distances_.build(far, fars, apart, true))
      return false;
    literals_.join_literals();
    return true;
  }

  bool symbols();
  bool ends();

  // Writes those of an entry, and looks up the next; what is written may lie in the room behind.
  void literals(uint32_t& entry) {
    const uint16_t both = uint16_t(entry >> 16);
    std::memcpy(out_, &both, 2);
    out_ += entry >> 8 & 3;
    drop(entry & kBits);
    entry = literals_.at(held_);
  }

  const uint8_t *in_, *in_end_;
  uint8_t *begin_, *out_, *out_end_;
  uint64_t held_ = 0;
  int count_ = 0;
  InflateTable<11, 288> literals_;
  InflateTable<9, 32> distances_;
};

// Copies in steps of STEP bytes, three at once: the end is beyond most lengths, and foreseen.
template <int STEP>
inline void inflate_steps(uint8_t* out, const uint8_t* from, const uint8_t* end) {
  do {
    for (int i = 0; i < 3; ++i, out += STEP, from += STEP) std::memcpy(out, from, STEP);
  } while (__builtin_expect(out < end, 0));
}

// `length` of what was written `distance` before; where that is the less, it repeats.
inline void inflate_copy(uint8_t* out, uint32_t distance, uint32_t length) {
  const uint8_t *from = out - distance, *end = out + length;
  if (distance == 1) {  // mostly, in pictures
    typedef uint8_t Bytes __attribute__((vector_size(16)));
    const Bytes all = Bytes{} + *from;
    do {
      for (int i = 0; i < 3; ++i, out += 16) std::memcpy(out, &all, 16);
    } while (__builtin_expect(out < end, 0));
    return;
  }
  if (distance >= 16) return inflate_steps<16>(out, from, end);
  if (distance < 8) {  // as often as makes a step
    const uint32_t whole = (7 / distance + 1) * distance;
    const uint8_t* far = std::min<const uint8_t*>(out + (whole - distance), end);
    while (out < far) *out++ = *from++;
    if (out >= end) return;
    from = out - whole;
  }
  inflate_steps<8>(out, from, end);
}

inline bool Inflate::symbols() {
  refill();
  uint32_t entry = literals_.at(held_);
  while (true) {
    if (__builtin_expect(is_overrun() || out_ > out_end_, 0)) return false;
    // Two of the longest codes leave enough for a length.
    if (entry & kLiterals) {
      literals(entry);
      if (entry & kLiterals) {
        literals(entry);
        if (entry & kLiterals) {
          literals(entry);
          refill();
          entry = literals_.at(held_);
          continue;
        }
      }
    }
    drop(entry & kBits);
    if (__builtin_expect(entry < 1u << 16, 0)) return entry & kEndOfBlock;
    const uint32_t length = (entry >> 16) + take(entry >> 8 & kExtra);
    refill();
    const uint32_t far = distances_.at(held_);
    drop(far & kBits);
    const uint32_t distance = (far >> 16) + take(far >> 8 & kExtra);
    if (__builtin_expect(far < 1u << 16 || distance > size_t(out_ - begin_), 0)) return false;
    refill();
    entry = literals_.at(held_);  // asked for before it is needed
    inflate_copy(out_, distance, length);
    out_ += length;
  }
}

// Adler's sum of what was given out.
ACCEL_CLONES inline uint32_t adler(const uint8_t* data, size_t size) {
  constexpr uint32_t kPrime = 65521;
  constexpr int kStep = 64;
  uint32_t a = 1, b = 0;
  while (size >= kStep) {
    const size_t steps = std::min<size_t>(size / kStep, 80);  // the sums fit 32 bits
    uint32_t before = 0, sum = 0, weighted = 0;
    for (size_t s = 0; s < steps; ++s, data += kStep) {
      uint32_t here = 0;
      int32_t falling = 0;
      for (int i = 0; i < kStep; ++i) {
        here += data[i];
        falling += int16_t(kStep - i) * int16_t(data[i]);
      }
      before += sum, sum += here, weighted += uint32_t(falling);
    }
    b = (b + uint32_t(steps) * kStep * a + kStep * before + weighted) % kPrime;
    a = (a + sum) % kPrime;
    size -= steps * kStep;
  }
  for (; size; --size, ++data) a = (a + *data) % kPrime, b = (b + a) % kPrime;
  return b << 16 | a;
}

inline bool Inflate::ends() {
  if (!to_bytes() || in_end_ - in_ < 4) return false;
  const uint32_t told =
      uint32_t(in_[0]) << 24 | uint32_t(in_[1]) << 16 | uint32_t(in_[2]) << 8 | in_[3];
  return told == adler(begin_, size_t(out_end_ - begin_));
}

}  // namespace accel
