// What one instruction set offers: loops over a block of neurons, chosen at run time.
#pragma once

#include "../lif_step.h"
#include "../noise.h"
#include "../storage.h"
#include "../surrogate.h"

namespace tgo::cpu {

constexpr int64_t kBlock = 512;  // neurons in a block at the most; a multiple of 16
constexpr int kSpan = 4;         // steps that a kernel takes in registers

// Sums over neurons and steps; those of the penalty are exact (see reference.py), so that their order does not show.
struct Totals {
  double penalty = 0;
  int64_t neighbors = 0, fired = 0;
};

// Rows of consecutive steps, len neurons each: kSpan of them, or one, as the kernel takes.
using Rows = const float* const*;
using OutRows = float* const*;

struct Kernels {
  const char* name;
  // z[i][j]: the four normals of Philox block `block` for neuron[j], or for first + j where neuron is null. Rows are
  // kBlock long, whatever len. Since it leaves the memory idle, it fetches the cache lines at ahead[] + 0 .. len floats.
  void (*noise)(uint64_t seed, const int64_t* neuron, int64_t first, int64_t len, uint32_t block, OutRows z,
                const char* const* ahead, int ahead_count);
  // Steps forward, v in place. Rows s that are aligned to 64 bytes can be written past the caches.
  // [kSpan steps][noisy][guarded]
  void (*forward[2][2][2])(const Neuron&, int64_t len, Rows x, Rows xi, float* v, OutRows s, bool past_caches,
                           Totals*);
  // The same for the state alone, from v to v_next. [kSpan steps][noisy]
  void (*advance[2][2])(const Neuron&, int64_t len, Rows x, Rows xi, const float* v, float* v_next);
  // Recomputes the steps from v before them and walks back, g_v in place. [kSpan steps][noisy][guarded][curve]
  void (*backward[2][2][2][kCurves])(const Neuron&, int64_t len, Rows x, Rows xi, const float* v, Rows g_s, float k,
                                     float* g_v, OutRows g_x, bool past_caches);
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
