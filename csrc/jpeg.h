// Baseline JPEG, 4:2:0: tables, header and entropy coding. What is vector code lies in jpeg_rows.h.
//
// Source: ITU-T T.81; the tables of its annex K, scaled by quality as the IJG's encoder scales
// them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace accel {

constexpr int kMcu = 16;  // pixels along a side of what is coded together: 4 blocks of luma

// What the picture is before it is coded: luma, then both chroma at half of the resolution, for 16
// rows of pixels; 0 is grey.
struct JpegStrip {
  int wide;  // pixels of a row, whole groups of 16, or of 32 where blocks are coded in pairs
  float* planes[3];
};

constexpr uint8_t kZigzag[64] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,
                                 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
                                 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
                                 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

// The same of a block that lies by columns.
constexpr int16_t kColumns[64] = {0,  8,  1,  2,  9,  16, 24, 17, 10, 3,  4,  11, 18, 25, 32, 40,
                                  33, 26, 19, 12, 5,  6,  13, 20, 27, 34, 41, 48, 56, 49, 42, 35,
                                  28, 21, 14, 7,  15, 22, 29, 36, 43, 50, 57, 58, 51, 44, 37, 30,
                                  23, 31, 38, 45, 52, 59, 60, 53, 46, 39, 47, 54, 61, 62, 55, 63};

constexpr uint8_t kLumaSteps[64] = {16,  11,  10,  16,  24, 40, 51,  61,  12,  12,  14,  19,  26,
                                    58,  60,  55,  14,  13, 16, 24,  40,  57,  69,  56,  14,  17,
                                    22,  29,  51,  87,  80, 62, 18,  22,  37,  56,  68,  109, 103,
                                    77,  24,  35,  55,  64, 81, 104, 113, 92,  49,  64,  78,  87,
                                    103, 121, 120, 101, 72, 92, 95,  98,  112, 100, 103, 99};
constexpr uint8_t kChromaSteps[64] = {
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99,
    99, 99, 47, 66, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99};

// How many codes there are of each length from 1 to 16, and what they stand for, in order.
struct CodeList {
  uint8_t counts[16];
  int size;
  uint8_t symbols[162];
};
constexpr CodeList kLumaDc = {
    {0, 1, 5, 1, 1, 1, 1, 1, 1}, 12, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}};
constexpr CodeList kChromaDc = {
    {0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 12, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}};
constexpr CodeList kLumaAc = {
    {0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125},
    162,
    {0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61,
     0x07, 0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52,
     0xd1, 0xf0, 0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25,
     0x26, 0x27, 0x28, 0x29, 0x2a, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45,
     0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64,
     0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83,
     0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
     0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6,
     0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3,
     0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8,
     0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa}};
constexpr CodeList kChromaAc = {
    {0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119},
    162,
    {0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61,
     0x71, 0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33,
     0x52, 0xf0, 0x15, 0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18,
     0x19, 0x1a, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44,
     0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63,
     0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a,
     0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97,
     0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4,
     0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca,
     0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7,
     0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa}};

// Steps of quantisation, [luma, chroma] in a block's natural order: those of annex K, scaled.
// inverse: [luma, chroma] what the sums of a block that lies by columns, [8][8], are multiplied by,
// each row twice; what the transform leaves out of its sums is part of it.
struct JpegScales {
  uint8_t steps[2][64];
  float inverse[2][128];

  explicit JpegScales(int quality) {
    constexpr double left_out[8] = {1, 1.387039845, 1.306562965, 1.175875602,
                                    1, 0.785694958, 0.541196100, 0.275899379};
    const int scale = quality < 50 ? 5000 / quality : 200 - 2 * quality;
    for (int table = 0; table < 2; ++table)
      for (int i = 0; i < 64; ++i) {
        const int plain = (table ? kChromaSteps : kLumaSteps)[i], y = i / 8, x = i % 8;
        steps[table][i] = uint8_t(std::clamp((plain * scale + 50) / 100, 1, 255));
        const double whole = 8 * left_out[x] * left_out[y] * steps[table][i];
        inverse[table][16 * x + y] = inverse[table][16 * x + 8 + y] = float(1 / whole);
      }
  }
};

// Bits of a level that are told besides its code.
inline int jpeg_category(int value) {
  const uint32_t size = uint32_t(value < 0 ? -value : value);
  return size ? 32 - __builtin_clz(size) : 0;
}

// Bits, their count in the last eight.
inline uint64_t jpeg_level(uint32_t code, int value, int size) {
  const uint32_t bits = uint32_t(value - (value < 0)) & ((1u << size) - 1);
  return (uint64_t(code >> 8) << size | bits) << 8 | ((code & 255) + uint32_t(size));
}

struct JpegCodes {
  static constexpr int kSmall = 32;  // most levels are smaller

  explicit JpegCodes(const CodeList& list) {
    uint32_t code = 0;
    const uint8_t* symbol = list.symbols;
    for (int length = 1; length <= 16; ++length, code <<= 1)
      for (int i = 0; i < list.counts[length - 1]; ++i)
        of[*symbol++] = code++ << 8 | uint32_t(length);
    for (int run = 0; run < 16; ++run)
      for (int value = -kSmall; value < kSmall; ++value) {
        const int size = jpeg_category(value);
        small[run][value + kSmall] = uint32_t(jpeg_level(of[run << 4 | size], value, size));
      }
  }
  // A level after `run` zeros.
  uint64_t level(int run, int value) const {
    if (uint32_t(value + kSmall) < 2 * kSmall) return small[run][value + kSmall];
    const int size = jpeg_category(value);
    return jpeg_level(of[run << 4 | size], value, size);
  }
  uint32_t of[256] = {};                // by symbol: the code, its length in the last eight bits
  uint32_t small[16][2 * kSmall] = {};  // levels of -kSmall..kSmall-1, put together
};

// Where the next bits go. A value of its own, which the compiler keeps in registers: bytes that are
// written to memory could change any object there.
struct JpegBits {
  uint8_t* at = nullptr;
  uint64_t waiting = 0;  // what is not yet written, but for its first `free` bits
  int free = 64;

  void stuffed(uint8_t value) {
    *at++ = value;
    if (value == 0xff) *at++ = 0;
  }
  void put(uint64_t code) {  // up to 27 bits, their count in the last eight
    const int count = int(code & 255);
    const uint64_t bits = code >> 8;
    free -= count;
    if (free >= 0) {
      waiting = waiting << count | bits;
      return;
    }
    waiting = waiting << (count + free) | bits >> -free;
    // Whether a byte of it is 0xff.
    if (waiting & (~waiting - 0x0101010101010101u) & 0x8080808080808080u) {
      for (int shift = 56; shift >= 0; shift -= 8) stuffed(uint8_t(waiting >> shift));
    } else {
      for (int i = 0; i < 8; ++i) at[i] = uint8_t(waiting >> (56 - 8 * i));
      at += 8;
    }
    waiting = bits, free += 64;
  }
};

// A picture's bytes as they grow. Room for a group of blocks is made before it is coded.
class JpegWriter {
 public:
  static constexpr size_t kRoom = 8192;  // more than six blocks can take, every byte of them 0xff

  explicit JpegWriter(std::vector<uint8_t>& kept) : bytes_(kept) {
    if (bytes_.size() < kRoom) bytes_.resize(kRoom);
    bits_.at = bytes_.data();
  }
  size_t size() const { return size_t(bits_.at - bytes_.data()); }
  void make_room() {
    const size_t used = size();
    if (bytes_.size() - used < kRoom) bytes_.resize(2 * bytes_.size());
    bits_.at = bytes_.data() + used;
  }
  void byte(int value) { *bits_.at++ = uint8_t(value); }
  void word(int value) { byte(value >> 8), byte(value & 255); }
  void copy(const uint8_t* from, int count) {
    std::memcpy(bits_.at, from, size_t(count));
    bits_.at += count;
  }

  // One block's levels, in zigzag order; `mask`: which of them are not 0.
  void block(const int16_t* levels, uint64_t mask, int& last, const JpegCodes& dc,
             const JpegCodes& ac) {
    JpegBits bits = bits_;
    bits.put(dc.level(0, levels[0] - last));
    last = levels[0];
    int done = 0;  // levels coded so far, but for the first
    for (mask &= ~uint64_t(1); mask; mask &= mask - 1) {
      const int i = __builtin_ctzll(mask);
      int run = i - done - 1;
      for (; run > 15; run -= 16) bits.put(ac.of[0xf0]);
      bits.put(ac.level(run, levels[i]));
      done = i;
    }
    if (done < 63) bits.put(ac.of[0]);
    bits_ = bits;
  }
  void finish() {
    bits_.put(0x7f << 8 | 7);  // ones up to the end of a byte
    for (int count = 64 - bits_.free; count >= 8; count -= 8)
      bits_.stuffed(uint8_t(bits_.waiting >> (count - 8)));
    word(0xffd9);
  }

 private:
  std::vector<uint8_t>& bytes_;
  JpegBits bits_;
};

// Everything before the coded blocks, for a square picture.
inline void jpeg_header(JpegWriter& w, int size, const uint8_t (*steps)[64]) {
  w.word(0xffd8);
  const uint8_t jfif[] = {0xff, 0xe0, 0, 16, 'J', 'F', 'I', 'F', 0, 1, 1, 0, 0, 1, 0, 1, 0, 0};
  w.copy(jfif, sizeof jfif);
  for (int table = 0; table < 2; ++table) {
    w.word(0xffdb), w.word(67), w.byte(table);
    for (int i = 0; i < 64; ++i) w.byte(steps[table][kZigzag[i]]);
  }
  w.word(0xffc0), w.word(17), w.byte(8), w.word(size), w.word(size), w.byte(3);
  w.byte(1), w.byte(0x22), w.byte(0);  // luma twice as fine along both axes
  for (int i = 2; i < 4; ++i) w.byte(i), w.byte(0x11), w.byte(1);
  const CodeList* lists[] = {&kLumaDc, &kLumaAc, &kChromaDc, &kChromaAc};
  for (int i = 0; i < 4; ++i) {
    w.word(0xffc4), w.word(19 + lists[i]->size), w.byte((i & 1) << 4 | i >> 1);
    w.copy(lists[i]->counts, 16), w.copy(lists[i]->symbols, lists[i]->size);
  }
  const uint8_t scan[] = {0xff, 0xda, 0, 12, 3, 1, 0, 2, 0x11, 3, 0x11, 0, 63, 0};
  w.copy(scan, sizeof scan);
}

}  // namespace accel
