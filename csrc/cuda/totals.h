// The CUDA engine's counts, and how the blocks' are summed up.
#pragma once

#include "../arguments.h"
#include "rows.h"

namespace tgo::cuda {

constexpr int kThreads = 128;  // of a block
constexpr int kWarp = 32;
constexpr int kSumThreads = 1024;  // of the one block that sums up the blocks' sums

template <class Count>
struct alignas(16) Totals {
  double penalty = 0;  // its terms are multiples of one fp32 ulp, so that the sum is exact
  Count neighbors = 0, fired = 0;

  template <class Other>
  TGO_HD void operator+=(const Totals<Other>& other) {
    penalty += other.penalty;
    neighbors += other.neighbors;
    fired += other.fired;
  }
};

using BlockTotals = Totals<int32_t>;  // none of 2^16 blocks sees 2^31 neuron-steps in less than 2^47, or T = 2^17
using GridTotals = Totals<int64_t>;

// The share of one thread in the sum over all blocks' sums. A load waits for none of the seven beside it.
TGO_HD GridTotals thread_sum(const BlockTotals* partials, int64_t count, int thread) {
  constexpr int kAtOnce = 8;
  using Bits = Row<float, 4>;  // a struct's members would be loaded one by one
  static_assert(sizeof(Bits) == sizeof(BlockTotals));
  GridTotals totals;
  for (int64_t first = thread; first < count; first += kAtOnce * kSumThreads) {
    Bits part[kAtOnce] = {};
    TGO_UNROLL for (int i = 0; i < kAtOnce; ++i)
      if (first + i * kSumThreads < count)
        part[i].load(reinterpret_cast<const float*>(partials + first + i * kSumThreads));
    TGO_UNROLL for (int i = 0; i < kAtOnce; ++i) totals += bit_cast<BlockTotals>(part[i]);
  }
  return totals;
}

// A round of a block's sum: the first `from` entries into the first `to`. Between two rounds, those threads meet.
template <class T>
TGO_HD void fold(T* shared, int thread, int from, int to) {
  if (thread >= to) return;
  T sum = shared[thread];
  TGO_UNROLL for (int i = to; i < from; i += to) sum += shared[thread + i];
  shared[thread] = sum;
}

}  // namespace tgo::cuda
