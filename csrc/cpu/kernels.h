// What one instruction set offers: loops over a block of neurons, chosen at run time.
#pragma once

#include "../lif_step.h"
#include "../noise.h"
#include "../storage.h"
#include "../surrogate.h"

namespace tgo::cpu {

constexpr int64_t kBlock = 512;  // neurons in a block at the most; a multiple of 64
constexpr int64_t kMaxChunk = 8;  // steps that a kernel takes, and between two checkpoints, at the most

// Sums over neurons and steps; those of the penalty are exact (see reference.py), so that their order does not show.
struct Totals {
  double penalty = 0;
  int64_t neighbors = 0, fired = 0;
};

// Rows of consecutive steps, len neurons each.
using Rows = const float* const*;
using OutRows = float* const*;

struct Kernels {
  const char* name;
  // z[i][j]: the four normals of Philox block `block` for neuron[j], the first + j-th in memory, or for first + j itself
  // where neuron is null. Rows are kBlock long, whatever len. `distance` is Layout::pair_distance(). Meanwhile the rows
  // of both that are used next are fetched, those that are not null.
  void (*noise)(uint64_t seed, const int64_t* neuron, int64_t distance, int64_t first, int64_t len, uint32_t block,
                OutRows z, Rows next[2]);
  // Steps forward, from v to v_next, which may be one. Rows that are aligned to 64 bytes can be written past the caches.
  // What is used next lies so many elements `ahead` of each row, and is fetched meanwhile. Rows of a table are decay,
  // gain and v_threshold of neurons that have their own. [table][noise][guarded]
  void (*forward[2][3][2])(const Neuron<>&, Rows table, int64_t steps, int64_t len, int64_t ahead, Rows x, Rows xi,
                           const float* v, float* v_next, OutRows s, bool past_caches, bool v_past_caches, Totals*);
  // Recomputes the steps from v before them and walks back, g_v in place. The gradients of a table's rows are added to
  // g_table. [table][noise][guarded][curve]
  void (*backward[2][3][2][kCurves])(const Neuron<>&, Rows table, int64_t steps, int64_t len, int64_t ahead, Rows x,
                                     Rows xi, const float* v, Rows g_s, float k, float* g_v, OutRows g_table,
                                     OutRows g_x, bool past_caches);
  void (*load_half)(const uint16_t* from, int64_t len, int64_t ahead, float* to);
  void (*load_bfloat16)(const uint16_t* from, int64_t len, int64_t ahead, float* to);
  void (*store_half)(const float* from, int64_t len, int64_t ahead, uint16_t* to);
  void (*store_bfloat16)(const float* from, int64_t len, int64_t ahead, uint16_t* to);
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
