// A matrix turned. Part of graph_rows.h, for four lanes alone: memory is what it waits for.

// to[r * b + c] = from[c * a + r], four by four.
inline void turn(const float* from, int64_t a, float* to, int64_t b, int64_t rows,
                 int64_t columns) {
  constexpr int64_t kBlock = 64;  // of columns: lines of both stay near
  if (columns == 2 && b == 2) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
      const Vec u = load(from + r), v = load(from + a + r);
      store(to + 2 * r, Vec{u[0], v[0], u[1], v[1]});
      store(to + 2 * r + 4, Vec{u[2], v[2], u[3], v[3]});
    }
    for (; r < rows; ++r) to[2 * r] = from[r], to[2 * r + 1] = from[a + r];
    return;
  }
  for (int64_t block = 0; block < columns; block += kBlock) {
    const int64_t end = block + kBlock < columns ? block + kBlock : columns;
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
      int64_t c = block;
      for (; c + 4 <= end; c += 4) {
        Vec v[4];
        for (int i = 0; i < 4; ++i) v[i] = load(from + (c + i) * a + r);
        for (int i = 0; i < 4; ++i)
          store(to + (r + i) * b + c, Vec{v[0][i], v[1][i], v[2][i], v[3][i]});
      }
      for (; c < end; ++c)
        for (int64_t i = r; i < r + 4; ++i) to[i * b + c] = from[c * a + i];
    }
    for (; r < rows; ++r)
      for (int64_t c = block; c < end; ++c) to[r * b + c] = from[c * a + r];
  }
}
