// PNG pictures of eight bits, straight into planes; accel/video/png.py says which.
#include "png.h"

#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "binding.h"
#include "clones.h"

namespace accel {
namespace {

using Text = std::string_view;

constexpr size_t kSignature = 8, kHeader = 13;
constexpr size_t kAround = 12;  // bytes of a chunk's length, kind and sum
constexpr size_t kMostSide = 65535;
constexpr size_t kBehind = 2;  // bytes that are read behind a row

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

// Size, bytes of a pixel, the chunks before and behind the pixels, and what those of the pixels
// hold, packed; None for other kinds.
nb::object png_frame(ConstArray given) {
  const Text file = text_of(given);
  const Png png(file);
  if (!png.bytes) return nb::none();
  const auto part = [&](size_t from, size_t to) {
    return nb::bytes(file.data() + from, to - from);
  };
  std::string pixels;
  for (const Text each : png.data) pixels += each;
  return nb::make_tuple(png.width, png.height, png.bytes, part(png.first, png.begin),
                        part(png.end, png.rest), nb::bytes(pixels.data(), pixels.size()));
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

// rows: each with its filter before it, and room for kBehind bytes after the last.
ACCEL_CLONES __attribute__((flatten)) bool unfilter(uint8_t* rows, size_t height, size_t width,
                                                    const std::vector<Place>& to) {
  const size_t bytes = to.size(), row = width * bytes;
  const std::vector<uint8_t> none(row + kBehind);
  const uint8_t* above = none.data();
  for (size_t y = 0; y < height; ++y) {
    uint8_t* at = rows + y * (row + 1) + 1;
    const auto place = [&](int c) { return to[c].data + int64_t(y) * to[c].row; };
    if (bytes == 3) {
      if (!png_unfilter<3>(at[-1], at, above, int64_t(width))) return false;
      part_three(at, int64_t(width), place(0), place(1), place(2));
    } else {
      if (!png_unfilter<4>(at[-1], at, above, int64_t(width))) return false;
      part_four(at, int64_t(width), place(0), place(1), place(2), place(3));
    }
    above = at;
  }
  return true;
}

// rows: what the pixels' chunks unpack to. planes: red, green, blue, and alpha where there is one.
// False for a filter that is none; planes hold anything then.
bool png_planes(ConstArray rows, const std::vector<Array>& planes) {
  const Text packed = text_of(rows);
  if (planes.size() != 3 && planes.size() != 4)
    throw std::invalid_argument("png_planes: planes must be three or four");
  if (planes[0].ndim() != 2) throw std::invalid_argument("png_planes: planes must be [H, W]");
  const size_t height = planes[0].shape(0), width = planes[0].shape(1);
  std::vector<Place> to;
  for (const Array& plane : planes) {
    if (plane.ndim() != 2 || plane.dtype() != nb::dtype<uint8_t>() || plane.shape(0) != height ||
        plane.shape(1) != width || (width > 1 && plane.stride(1) != 1))
      throw std::invalid_argument("png_planes: planes must be [H, W] of uint8 and of one size");
    to.push_back({static_cast<uint8_t*>(plane.data()), int64_t(plane.stride(0))});
  }
  if (packed.size() != height * (width * planes.size() + 1))
    throw std::invalid_argument("png_planes: rows must be as many bytes as the planes need");
  nb::gil_scoped_release unlocked;
  const std::unique_ptr<uint8_t[]> own(new uint8_t[packed.size() + kBehind]);
  std::copy(packed.begin(), packed.end(), own.get());
  return unfilter(own.get(), height, width, to);
}

}  // namespace
}  // namespace accel

ACCEL_BIND(png) {
  m.def("png_frame", &accel::png_frame, "file"_a);
  m.def("png_planes", &accel::png_planes, "rows"_a, "planes"_a);
}
