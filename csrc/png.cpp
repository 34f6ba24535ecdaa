// PNG pictures of eight bits, straight into planes; accel/video/png.py says which.
#include "png.h"

#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <string_view>
#include <vector>

#include "binding.h"
#include "inflate.h"

namespace accel {
namespace {

using Text = std::string_view;

constexpr size_t kSignature = 8, kHeader = 13;
constexpr size_t kAround = 12;  // bytes of a chunk's length, kind and sum
constexpr size_t kMostSide = 65535;

size_t number_at(const char* at) {
  size_t value = 0;
  for (int i = 0; i < 4; ++i) value = value << 8 | uint8_t(at[i]);
  return value;
}

struct Chunk {
  Text kind, data;
};

// The chunk that begins at `at`, which moves on; false where none does that is whole, and at IEND.
bool next_chunk(Text file, size_t& at, Chunk& chunk) {
  if (file.size() - at < kAround) return false;
  const size_t size = number_at(file.data() + at);
  if (size > file.size() - at - kAround) return false;
  chunk.kind = file.substr(at + 4, 4), chunk.data = file.substr(at + 8, size);
  at += size + kAround;
  return chunk.kind != "IEND";
}

struct Png {
  size_t width = 0, height = 0;
  int bytes = 0;                        // of a pixel; 0 for a kind that is not read here
  size_t first = 0;                     // where what follows the header begins
  size_t begin = 0, end = 0, rest = 0;  // of the pixels' chunks, and of what follows those
  std::vector<Text> data;               // of the pixels

  explicit Png(Text file) {
    size_t at = kSignature;
    Chunk chunk;
    if (file.size() < at || !next_chunk(file, at, chunk) || chunk.kind != "IHDR" ||
        chunk.data.size() != kHeader)
      return;
    const Text kind = chunk.data.substr(8);
    width = number_at(chunk.data.data()), height = number_at(chunk.data.data() + 4);
    first = at;
    for (size_t from = at; next_chunk(file, at, chunk); from = at) {
      const bool is_pixels = chunk.kind == "IDAT";
      if (is_pixels && data.empty()) begin = from;
      // Of films, of two pictures in one, and of pixels in two places others may know more.
      if (chunk.kind == "acTL" || chunk.kind == "fcTL" || chunk.kind == "IHDR" ||
          (is_pixels && !data.empty() && from != end))
        return;
      if (is_pixels) data.push_back(chunk.data), end = at;
      rest = at;
    }
    const bool is_rgb = kind == Text("\x08\x02\0\0\0", 5),
               is_rgba = kind == Text("\x08\x06\0\0\0", 5);
    const bool is_whole = chunk.kind == "IEND" || at == file.size();
    if (!is_whole || data.empty() || width < 1 || height < 1 || width > kMostSide ||
        height > kMostSide)
      return;
    bytes = is_rgb ? 3 : is_rgba ? 4 : 0;
  }
};

Text text_of(const ConstArray& file) {
  if (file.ndim() != 1 || file.dtype() != nb::dtype<uint8_t>() ||
      (file.shape(0) > 1 && file.stride(0) != 1))
    throw std::invalid_argument("png: a file must be [N] of uint8");
  return {static_cast<const char*>(file.data()), file.shape(0)};
}

// Size, bytes of a pixel, and the chunks before and behind the pixels; None for other kinds.
nb::object png_frame(ConstArray given) {
  const Text file = text_of(given);
  const Png png(file);
  if (!png.bytes) return nb::none();
  const auto part = [&](size_t from, size_t to) {
    return nb::bytes(file.data() + from, to - from);
  };
  return nb::make_tuple(png.width, png.height, png.bytes, part(png.first, png.begin),
                        part(png.end, png.rest));
}

ACCEL_CLONES __attribute__((flatten)) bool inflate(const uint8_t* in, size_t in_size, uint8_t* out,
                                                   size_t out_size) {
  return Inflate(in, in_size, out, out_size).run();
}

ACCEL_CLONES void part_three(const uint8_t* row, int64_t width, uint8_t* __restrict__ red,
                             uint8_t* __restrict__ green, uint8_t* __restrict__ blue) {
  for (int64_t x = 0; x < width; ++x)
    red[x] = row[3 * x], green[x] = row[3 * x + 1], blue[x] = row[3 * x + 2];
}

ACCEL_CLONES void part_four(const uint8_t* row, int64_t width, uint8_t* __restrict__ red,
                            uint8_t* __restrict__ green, uint8_t* __restrict__ blue,
                            uint8_t* __restrict__ alpha) {
  for (int64_t x = 0; x < width; ++x)
    red[x] = row[4 * x], green[x] = row[4 * x + 1], blue[x] = row[4 * x + 2],
    alpha[x] = row[4 * x + 3];
}

struct Place {
  uint8_t* data;
  int64_t row;
};

bool decode(const Png& png, const std::vector<Place>& to) {
  size_t length = 0;
  for (const Text part : png.data) length += part.size();
  const std::unique_ptr<uint8_t[]> in(new uint8_t[length + kInflateRoomIn]);
  uint8_t* next = in.get();
  for (const Text part : png.data) next = std::copy(part.begin(), part.end(), next);
  std::fill(next, next + kInflateRoomIn, 0);
  const size_t row = png.width * png.bytes, size = png.height * (row + 1);
  const std::unique_ptr<uint8_t[]> out(new uint8_t[size + kInflateRoomOut]);
  if (!inflate(in.get(), length, out.get(), size)) return false;
  const std::vector<uint8_t> none(row + 4);
  const uint8_t* above = none.data();
  for (size_t y = 0; y < png.height; ++y) {
    uint8_t* at = out.get() + y * (row + 1) + 1;
    const int64_t width = int64_t(png.width);
    const auto place = [&](int c) { return to[c].data + int64_t(y) * to[c].row; };
    if (png.bytes == 3) {
      if (!png_unfilter<3>(at[-1], at, above, width)) return false;
      part_three(at, width, place(0), place(1), place(2));
    } else {
      if (!png_unfilter<4>(at[-1], at, above, width)) return false;
      part_four(at, width, place(0), place(1), place(2), place(3));
    }
    above = at;
  }
  return true;
}

// planes: red, green, blue, and alpha where there is one. False for whatever is irregular; planes
// hold anything then.
bool png_planes(ConstArray file, const std::vector<Array>& planes) {
  const Png png(text_of(file));
  if (!png.bytes || planes.size() != size_t(png.bytes)) return false;
  std::vector<Place> to;
  for (const Array& plane : planes) {
    if (plane.ndim() != 2 || plane.dtype() != nb::dtype<uint8_t>() ||
        plane.shape(0) != png.height || plane.shape(1) != png.width ||
        (png.width > 1 && plane.stride(1) != 1))
      throw std::invalid_argument("png_planes: planes must be [H, W] of uint8, as the picture is");
    to.push_back({static_cast<uint8_t*>(plane.data()), int64_t(plane.stride(0))});
  }
  nb::gil_scoped_release unlocked;
  return decode(png, to);
}

}  // namespace
}  // namespace accel

ACCEL_BIND(png) {
  m.def("png_frame", &accel::png_frame, "file"_a);
  m.def("png_planes", &accel::png_planes, "file"_a, "planes"_a);
}
