// Rows of fp32, fp16 or bf16 tensors as fp32: in place where they lie in one piece, through scratch rows otherwise.
#pragma once

#include "../layout.h"
#include "../storage.h"
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
  RowIO(void* data, Storage storage, const Layout& layout, const Kernels& kernels, bool output = false)
      : data_(data), storage_(storage), layout_(layout), kernels_(kernels) {
    const int64_t bytes = layout.steps * layout.neurons * int64_t(sizeof(float));
    past_caches_ = output && storage == Storage::kFloat && bytes >= kPastCaches &&
                   reinterpret_cast<uintptr_t>(data) % 64 == 0 && layout.inner % 16 == 0;
  }

  explicit operator bool() const { return data_ != nullptr; }

  void read(const Chunk& c, ChunkRows& scratch, const float* rows[kMaxChunk]) const {
    for (int64_t i = 0; i < c.steps; ++i) rows[i] = read(c, i, scratch[i]);
  }

  // Where to write the rows of a chunk; finish() brings them home.
  void begin(const Chunk& c, ChunkRows& scratch, float* rows[kMaxChunk]) const {
    for (int64_t i = 0; i < c.steps; ++i) rows[i] = direct(c) ? address<float>(c.t + i, c.m) : scratch[i];
  }
  void finish(const Chunk& c, float* const rows[kMaxChunk]) const {
    if (direct(c)) return;
    for (int64_t i = 0; i < c.steps; ++i) write(c, i, rows[i]);
  }

  // How far ahead of the rows that a kernel reads it is to fetch.
  int64_t ahead(const Chunk& c) const { return direct(c) ? c.ahead : 0; }

  // Whether the rows of these neurons are to be written past the caches: those of an output too large for them.
  bool past_caches(const Chunk& c) const { return past_caches_ && contiguous(c) && c.m % 16 == 0; }

 private:
  bool contiguous(const Chunk& c) const { return c.m % layout_.inner + c.len <= layout_.inner; }
  bool direct(const Chunk& c) const { return storage_ == Storage::kFloat && contiguous(c); }

  const float* read(const Chunk& c, int64_t i, float* scratch) const {
    const int64_t t = c.t + i;
    if (direct(c)) return address<float>(t, c.m);
    if (storage_ == Storage::kFloat) return gather<float>(t, c, scratch);
    alignas(64) uint16_t narrow[kBlock];
    const uint16_t* from = contiguous(c) ? address<uint16_t>(t, c.m) : gather<uint16_t>(t, c, narrow);
    (storage_ == Storage::kHalf ? kernels_.load_half : kernels_.load_bfloat16)(from, c.len, c.ahead, scratch);
    return scratch;
  }

  void write(const Chunk& c, int64_t i, const float* row) const {
    const int64_t t = c.t + i;
    if (storage_ == Storage::kFloat) return scatter<float>(t, c, row);
    alignas(64) uint16_t narrow[kBlock];
    uint16_t* to = contiguous(c) ? address<uint16_t>(t, c.m) : narrow;
    (storage_ == Storage::kHalf ? kernels_.store_half : kernels_.store_bfloat16)(row, c.len, c.ahead, to);
    if (to == narrow) scatter<uint16_t>(t, c, narrow);
  }

  template <class S>
  S* address(int64_t t, int64_t m) const {
    return static_cast<S*>(data_) + layout_.offset(m, t);
  }
  template <class S>
  const S* gather(int64_t t, const Chunk& c, S* row) const {
    for (int64_t j = 0; j < c.len; ++j) row[j] = *address<S>(t, c.m + j);
    return row;
  }
  template <class S>
  void scatter(int64_t t, const Chunk& c, const S* row) const {
    for (int64_t j = 0; j < c.len; ++j) *address<S>(t, c.m + j) = row[j];
  }

  void* data_;
  Storage storage_;
  const Layout& layout_;
  const Kernels& kernels_;
  bool past_caches_;
};

}  // namespace tgo::cpu
