// What one instruction set offers: loops over a row of neurons, chosen at run time.
#pragma once

#include "../noise.h"
#include "../surrogate.h"

namespace tgo::cpu {

constexpr int64_t kMaxBlock = 512;  // neurons in a row; multiple of 16

struct Counts {
  int64_t neighbors = 0, fired = 0;
};

struct Kernels {
  const char* name;
  // z[i][j]: the four normals of Philox block `block` for neuron[j].
  void (*noise)(uint64_t seed, const int64_t* neuron, int64_t len, uint32_t block, float* const z[kStepsPerBlock]);
  // One step forward, v in place. penalty[j] gathers this neuron's terms. [noise][soft_reset][guarded]
  void (*forward[3][2][2])(const Neuron&, int64_t len, const float* x, const float* xi, float* v, float* s,
                           double* penalty, Counts*);
  // The same step for the backward pass: keeps h and u (the same row without noise). [noise][soft_reset]
  void (*recompute[3][2])(const Neuron&, int64_t len, const float* x, const float* xi, float* v, float* h, float* u);
  // z[j] = surrogate(at[j] - v_threshold). [curve]
  void (*surrogate[kCurves])(const Neuron&, int64_t len, const float* at, float* z);
  // One step backward, g_v in place. [noise][soft_reset][guarded][detach_reset]
  void (*backward[3][2][2][2])(const Neuron&, int64_t len, const float* h, const float* u, const float* z,
                               const float* g_s, float k, float* g_v, float* g_x);
  double (*sum)(const double* values, int64_t len);  // len up to a multiple of 8 is read
  void (*load_half)(const uint16_t* from, int64_t len, float* to);
  void (*load_bfloat16)(const uint16_t* from, int64_t len, float* to);
  void (*store_half)(const float* from, int64_t len, uint16_t* to);
  void (*store_bfloat16)(const float* from, int64_t len, uint16_t* to);
};

namespace generic {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}

}  // namespace tgo::cpu
