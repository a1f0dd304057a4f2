// What an engine is told of a call, as memory. A pointer is null where there is no such tensor.
#pragma once

#include "neurons.h"

namespace tgo {

constexpr int kDims = 6;  // of a permuted layout

// Where a neuron lies: tgo::Layout without its vector.
struct Place {
  int64_t steps, neurons, inner;
  int dims;
  // One of size N and stride 1 where the order of memory is the logical one.
  int64_t size[kDims], logical_stride[kDims];

  // Step 0 of neuron m.
  TGO_HD int64_t offset(int64_t m) const { return inner == neurons ? m : m / inner * inner * steps + m % inner; }

  TGO_HD int64_t logical(int64_t m) const {
    int64_t index = 0;
    for (int d = dims - 1; d > 0; --d) {
      index += m % size[d] * logical_stride[d];
      m /= size[d];
    }
    return index + m * logical_stride[0];
  }
};

struct Arguments {
  Any firing;
  float rests[kMaxStates], numbers[kMaxConstants];  // the constants of all neurons
  uint32_t timed;                                   // bit k: constant k has a time axis: step t's lie t * columns further
  const float* own[kMaxConstants];                  // or those of each: of neuron m in column m % columns
  int64_t columns;                                  // N without a table
  Place place;
  int64_t noise_step;
  const int64_t* seed;
  const int32_t* lengths;  // [N]: how many steps each neuron's sequence has
  const void* inputs[kMaxInputs];
  const float* states[kMaxStates];  // before the first step; without them at rest
};

struct Forward : Arguments {
  void *spikes, *membrane;
  float *finals[kMaxStates], *checkpoints;
};

struct Backward : Arguments {
  const float* checkpoints;
  const void *g_spikes, *g_membrane;
  const float *g_finals[kMaxStates], *g_penalty;
  void* g_inputs[kMaxInputs];
  float *g_states[kMaxStates], *g_own[kMaxConstants];
  double share;  // 1 / (T * N)
};

// Where a forward writes its sums.
struct Sums {
  float* penalty;
  int64_t *neighbors, *fired;
  double count;  // T * N

  template <class Totals>
  TGO_HD void write(const Totals& totals) const {
    *penalty = float(totals.penalty / count);
    *neighbors = totals.neighbors;
    *fired = totals.fired;
  }
};

}  // namespace tgo
