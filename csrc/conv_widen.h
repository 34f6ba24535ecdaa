// Numbers of 16 bits to float32, exactly. Included by conv_isa.h inside an unnamed namespace.

#if defined(ACCEL_ISA_AVX512)
inline Vec widened(const uint16_t* from, Half kind) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  if (kind == Half::kFloat16) return _mm512_cvtph_ps(bits);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
#elif defined(ACCEL_ISA_AVX2)
inline Vec widened(const uint16_t* from, Half kind) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  if (kind == Half::kFloat16) return _mm256_cvtph_ps(bits);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
#else
inline float of_bits(uint32_t bits) {
  float number;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}
inline float widened_one(uint32_t bits, Half kind) {
  if (kind == Half::kBfloat16) return of_bits(bits << 16);
  const uint32_t sign = (bits & 0x8000) << 16, rest = bits & 0x7fff;
  if (rest >= 0x7c00) return of_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);  // infinity, NaN
  if (rest >= 0x400) return of_bits(sign | ((rest << 13) + (112u << 23)));
  const float small = float(rest) * 0x1p-24f;
  return sign ? -small : small;
}
inline Vec widened(const uint16_t* from, Half kind) {
  return each([=](int i) { return widened_one(from[i], kind); });
}
#endif

void widen(const uint16_t* in, Half kind, int64_t in_step, int64_t rows, int64_t count,
           float* out) {
  constexpr int kLine = 32;  // numbers
  for (int64_t r = 0; r < rows; ++r, in += in_step, out += count) {
    for (int64_t i = 0; i < count; i += kLine)
      prefetch(reinterpret_cast<const float*>(in + count + i));
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store(out + i, widened(in + i, kind));
    if (i == count) continue;
    uint16_t last[kLanes] = {};
    for (int64_t j = i; j < count; ++j) last[j - i] = in[j];
    store_some(out + i, widened(last, kind), int(count - i));
  }
}
