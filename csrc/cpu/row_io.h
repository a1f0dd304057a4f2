// Rows of fp32, fp16 or bf16 tensors as fp32: in place where they lie in one piece, through scratch rows otherwise.
#pragma once

#include "../layout.h"
#include "../storage.h"
#include "kernels.h"

namespace tgo::cpu {

constexpr int64_t kPastCaches = 8 << 20;  // bytes

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

  // Steps t .. t + steps - 1 of the neurons m .. m + len - 1.
  void read(int64_t t, int64_t steps, int64_t m, int64_t len, ChunkRows& scratch, const float* rows[kMaxChunk]) const {
    for (int64_t i = 0; i < steps; ++i) rows[i] = read(t + i, m, len, scratch[i]);
  }

  // Where to write those rows; finish() brings them home.
  void begin(int64_t t, int64_t steps, int64_t m, int64_t len, ChunkRows& scratch, float* rows[kMaxChunk]) const {
    for (int64_t i = 0; i < steps; ++i) rows[i] = direct(m, len) ? address<float>(t + i, m) : scratch[i];
  }
  void finish(int64_t t, int64_t steps, int64_t m, int64_t len, float* const rows[kMaxChunk]) const {
    if (direct(m, len)) return;
    for (int64_t i = 0; i < steps; ++i) write(t + i, m, len, rows[i]);
  }

  // Whether the rows of these neurons are to be written past the caches: those of an output too large for them.
  bool past_caches(int64_t m, int64_t len) const { return past_caches_ && contiguous(m, len); }

 private:
  bool contiguous(int64_t m, int64_t len) const { return m % layout_.inner + len <= layout_.inner; }
  bool direct(int64_t m, int64_t len) const { return storage_ == Storage::kFloat && contiguous(m, len); }

  const float* read(int64_t t, int64_t m, int64_t len, float* scratch) const {
    if (direct(m, len)) return address<float>(t, m);
    if (storage_ == Storage::kFloat) return gather<float>(t, m, len, scratch);
    alignas(64) uint16_t narrow[kBlock];
    const uint16_t* from = contiguous(m, len) ? address<uint16_t>(t, m) : gather<uint16_t>(t, m, len, narrow);
    (storage_ == Storage::kHalf ? kernels_.load_half : kernels_.load_bfloat16)(from, len, scratch);
    return scratch;
  }

  void write(int64_t t, int64_t m, int64_t len, const float* row) const {
    if (storage_ == Storage::kFloat) return scatter<float>(t, m, len, row);
    alignas(64) uint16_t narrow[kBlock];
    uint16_t* to = contiguous(m, len) ? address<uint16_t>(t, m) : narrow;
    (storage_ == Storage::kHalf ? kernels_.store_half : kernels_.store_bfloat16)(row, len, to);
    if (to == narrow) scatter<uint16_t>(t, m, len, narrow);
  }

  template <class S>
  S* address(int64_t t, int64_t m) const {
    return static_cast<S*>(data_) + layout_.offset(m, t);
  }
  template <class S>
  const S* gather(int64_t t, int64_t m, int64_t len, S* row) const {
    for (int64_t j = 0; j < len; ++j) row[j] = *address<S>(t, m + j);
    return row;
  }
  template <class S>
  void scatter(int64_t t, int64_t m, int64_t len, const S* row) const {
    for (int64_t j = 0; j < len; ++j) *address<S>(t, m + j) = row[j];
  }

  void* data_;
  Storage storage_;
  const Layout& layout_;
  const Kernels& kernels_;
  bool past_caches_;
};

}  // namespace tgo::cpu
