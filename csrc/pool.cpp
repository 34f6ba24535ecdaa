// Memory of large results, used again: the system hands out new pages empty, one by one, and for a
// result of 40 MB that takes three times as long as writing it.
//
// A block that is let go is kept for the next result of about its size, up to a limit for all that
// are kept and the next new one; the one that has waited longest goes first.
#include <list>
#include <mutex>

#include "binding.h"
#include "pages.h"

namespace accel {
namespace {

struct Block {
  void* data;
  size_t bytes;
};

class Pool {
 public:
  Block take(size_t bytes) {
    bytes = (bytes + kPage - 1) / kPage * kPage;
    std::list<Block> gone;
    {
      const std::lock_guard<std::mutex> guard(lock_);
      auto best = free_.end();
      for (auto it = free_.begin(); it != free_.end(); ++it)
        if (it->bytes >= bytes && it->bytes - bytes <= bytes / 4 &&
            (best == free_.end() || it->bytes <= best->bytes))
          best = it;
      if (best != free_.end()) {
        const Block block = *best;
        kept_ -= block.bytes;
        free_.erase(best);
        return block;
      }
      drop(gone, bytes < limit_ ? limit_ - bytes : 0);  // new memory in place of what is kept
    }
    for (const Block& each : gone) unmap_pages(each.data);
    return {map_pages(bytes, kPage), bytes};
  }

  void give(const Block& block) {
    std::list<Block> gone;
    {
      const std::lock_guard<std::mutex> guard(lock_);
      free_.push_back(block);
      kept_ += block.bytes;
      drop(gone, limit_);
    }
    for (const Block& each : gone) unmap_pages(each.data);
  }

  // Returns the limit before; kept blocks beyond the new one are freed.
  size_t limit(size_t bytes) {
    std::list<Block> gone;
    size_t before = 0;
    {
      const std::lock_guard<std::mutex> guard(lock_);
      before = limit_, limit_ = bytes;
      drop(gone, limit_);
    }
    for (const Block& each : gone) unmap_pages(each.data);
    return before;
  }

  size_t kept() {
    const std::lock_guard<std::mutex> guard(lock_);
    return kept_;
  }

 private:
  void drop(std::list<Block>& gone, size_t most) {
    while (kept_ > most) {
      kept_ -= free_.front().bytes;
      gone.splice(gone.end(), free_, free_.begin());
    }
  }

  std::mutex lock_;
  std::list<Block> free_;  // the one that has waited longest first
  size_t kept_ = 0, limit_ = size_t(256) << 20;
};

// Never destroyed: tensors outlive the module when the interpreter ends.
Pool& pool() {
  static Pool* const the = new Pool;
  return *the;
}

using Flat = nb::ndarray<nb::pytorch, float, nb::ndim<1>, nb::device::cpu>;

Flat pooled(size_t floats) {
  Block* block = new Block(pool().take(floats * sizeof(float)));
  const nb::capsule owner(block, [](void* p) noexcept {
    Block* const done = static_cast<Block*>(p);
    pool().give(*done);
    delete done;
  });
  return Flat(static_cast<float*>(block->data), {floats}, owner);
}

}  // namespace
}  // namespace accel

ACCEL_BIND(pool) {
  m.def("pooled", &accel::pooled, "floats"_a, "Uninitialised float32 [floats] of used memory.");
  m.def(
      "pool_limit", [](size_t bytes) { return accel::pool().limit(bytes); }, "bytes"_a,
      "Set how many bytes are kept for later; returns the limit before.");
  m.def("pool_kept", [] { return accel::pool().kept(); }, "Bytes that are kept for later.");
}
