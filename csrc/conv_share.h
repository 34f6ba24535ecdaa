// How threads share plain products of many rows on tile registers (conv_split.h). Included once, by
// conv2d.cpp inside an unnamed namespace.
//
// Each takes rows of its own from the cut to the result. Were outputs shared instead, every stretch
// of rows would cost two waits for the other threads, and half of the pixels and results would come
// from their caches: with 320 and 640 channels two threads were then no faster than one. Sums keep
// their order, so results are the same bytes.

struct Share : Split {
  using Split::Split;

  bool by_rows() const {
    return taps == 1 && p.stride == 1 && p.threads > 1 && items > together &&
           items >= 2 * p.threads;
  }

  void run() {
    if (!by_rows()) return Split::run();
    const bool packs = !p.packed && packed_floats() * 4 <= kPackedBytes;
    float* const packing = packs ? packed_scratch.get(packed_floats()) : nullptr;
    kept = reinterpret_cast<const char*>(packs ? packing : p.packed);
#pragma omp parallel num_threads(p.threads)
    {
      if (packs) pack_share(reinterpret_cast<char*>(packing));
      run_share();
    }
  }

  // The team's threads call both.
  void pack_share(char* to) const {
    float* values = own_scratch.get(value_floats());
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < panels; ++panel)
      cut_weights(to + panel * steps * weight_step(), values, panel, 0, chunks);
  }

  void run_share() const {
    char* pixels = reinterpret_cast<char*>(shared_scratch.get(chunks * apart(together).chunk / 4));
    char* own = reinterpret_cast<char*>(
        own_scratch.get(sum_floats(together) + value_floats() + offset_floats() +
                        (kept ? 0 : group_steps() * weight_step() / 4)));
    const int64_t blocks = round_up(ceil_div(items, together), p.threads);
#pragma omp for schedule(static)
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = items * block / blocks, n = items * (block + 1) / blocks - first;
      for (int64_t i = 0; i < n; ++i) cut(pixels, first, n, i);
      for (int64_t panel = 0; n && panel < panels; ++panel) run_panel(pixels, own, first, n, panel);
    }
  }
};
