// Rows of a tensor, as they are stored or in fp32: in place where they lie in one piece, through scratch rows otherwise.
#pragma once

#include "../layout.h"
#include "kernels.h"

namespace tgo::cpu {

constexpr int64_t kPastCaches = 8 << 20;  // bytes

// Steps t .. t + steps - 1 of the neurons m .. m + len - 1; what is used next lies so many elements ahead.
struct Chunk {
  int64_t t, steps, m, len, ahead;
};

// Scratch for the rows of a chunk.
using ChunkRows = float[kMaxChunk][kBlock];

class RowIO {
 public:
  RowIO() = default;  // of nothing
  RowIO(void* data, Storage storage, const Layout& layout, bool as_floats, bool output)
      : data_(static_cast<char*>(data)), storage_(storage), size_(storage == Storage::kFloat ? 4 : 2),
        layout_(&layout), as_floats_(as_floats && storage != Storage::kFloat) {
    past_caches_ = output && storage == Storage::kFloat && layout.steps * layout.neurons * size_ >= kPastCaches &&
                   reinterpret_cast<uintptr_t>(data) % 64 == 0 && layout.inner % 16 == 0;
  }

  explicit operator bool() const { return data_ != nullptr; }
  int64_t row_size() const { return as_floats_ ? 4 : size_; }  // of a value in a row, in bytes

  void read(const Chunk& c, ChunkRows& scratch, Rows& rows) const {
    for (int64_t i = 0; i < c.steps; ++i) {
      rows[i] = in_place(c) ? address(c.t + i, c.m) : reinterpret_cast<char*>(scratch[i]);
      if (!in_place(c))
        for_each_piece(c, i, [&](char* at, int64_t j, int64_t len) {
          as_floats_ ? best_kernels().widen(storage_, at, scratch[i] + j, len)
                     : (void)memcpy(reinterpret_cast<char*>(scratch[i]) + j * size_, at, len * size_);
        });
    }
  }

  // Where to write the rows of a chunk; finish() brings them home.
  void begin(const Chunk& c, ChunkRows& scratch, OutRows& rows) const {
    for (int64_t i = 0; i < c.steps; ++i)
      rows[i] = in_place(c) ? address(c.t + i, c.m) : reinterpret_cast<char*>(scratch[i]);
  }
  void finish(const Chunk& c, const OutRows& rows) const {
    if (in_place(c)) return;
    for (int64_t i = 0; i < c.steps; ++i)
      for_each_piece(c, i, [&](char* at, int64_t j, int64_t len) {
        as_floats_ ? best_kernels().narrow(storage_, static_cast<const float*>(rows[i]) + j, at, len)
                   : (void)memcpy(at, static_cast<const char*>(rows[i]) + j * size_, len * size_);
      });
  }

  // How far ahead of the rows that a kernel reads it is to fetch.
  int64_t ahead(const Chunk& c) const { return in_place(c) ? c.ahead : 0; }

  // Whether the rows of these neurons are to be written past the caches: those of an output too large for them.
  bool past_caches(const Chunk& c) const { return past_caches_ && in_place(c) && c.m % 16 == 0; }

 private:
  bool in_place(const Chunk& c) const { return !as_floats_ && c.m % layout_->inner + c.len <= layout_->inner; }
  char* address(int64_t t, int64_t m) const { return data_ + layout_->offset(m, t) * size_; }

  // f(address, j, len) for the neurons of a row that lie in one piece.
  template <class F>
  void for_each_piece(const Chunk& c, int64_t i, const F& f) const {
    for (int64_t j = 0, len; j < c.len; j += len) {
      len = std::min(c.len - j, layout_->inner - (c.m + j) % layout_->inner);
      f(address(c.t + i, c.m + j), j, len);
    }
  }

  char* data_ = nullptr;
  Storage storage_ = Storage::kFloat;
  int64_t size_ = 0;
  const Layout* layout_ = nullptr;
  bool as_floats_ = false, past_caches_ = false;
};

}  // namespace tgo::cpu
