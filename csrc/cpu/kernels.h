// What one instruction set offers: loops over a block of neurons, chosen at run time.
#pragma once

#include "../neurons.h"
#include "../noise.h"
#include "../storage.h"

namespace tgo::cpu {

constexpr int64_t kBlock = 2048;  // neurons in a block at the most; a multiple of 64
constexpr int kMaxChunk = 8;      // steps between two checkpoints, at the most; also those that a kernel takes

// Sums over neurons and steps; those of the penalty are exact (see reference.py), so that their order does not show.
struct Totals {
  double penalty = 0;
  int64_t neighbors = 0, fired = 0;
};

// Rows of consecutive steps, as they are stored or in fp32.
using Rows = const void*[kMaxChunk];
using OutRows = void*[kMaxChunk];

// Some steps of a block of neurons, of which the first is step t. Rows of an output that are aligned to 64 bytes can be
// written past the caches. What is used next lies so many elements `ahead` of each row, and is fetched meanwhile.
struct Work {
  int64_t t, steps, len, ahead;
  const float *numbers, *rests;     // constants of all neurons; states of those that rest
  const float* own[kMaxConstants];  // of those that have their own, or null
  uint32_t timed;                   // bit k: constant k has a time axis: step t's lie t * columns further
  int64_t columns;
  const int32_t* lengths;           // how many steps each neuron has, or null
  Rows inputs[kMaxInputs];
  const float* xi[kMaxChunk];
  const float* before[kMaxStates];  // states before the steps, or null: at rest
  bool past_caches;
};

struct ForwardWork : Work {
  OutRows spikes, membrane;
  float* after[kMaxStates];  // the states after the steps, which may be those before
  bool after_past_caches;
};

// Of a gradient that is null in there is none, of one that is null out none is wanted.
struct BackwardWork : Work {
  Rows g_spikes, g_membrane;
  OutRows g_inputs[kMaxInputs];
  const float* g_after[kMaxStates];  // of the states after the steps
  float* g_before[kMaxStates];       // of those before, which may be the same
  float* g_own[kMaxConstants];       // of the constants: added to, but where these are the first neurons, or first steps
  bool first_neurons, first;
};

using ForwardKernel = void (*)(const Any&, const ForwardWork&, Totals*);
using BackwardKernel = void (*)(const Any&, const BackwardWork&);  // recomputes the steps, and walks back

// What a kernel is chosen for.
struct Kind {
  const Any& firing;
  Storage storage;
  uint32_t own;  // bit k: neurons have their own constant k
  bool rare;     // sequences end, or constants have a time axis
};

struct NeuronKernels {
  ForwardKernel (*forward)(const Kind&);
  BackwardKernel (*backward)(const Kind&);
};

struct Kernels {
  const char* name;
  // z[i][j]: the four normals of Philox block `block` for neuron[j], the first + j-th in memory, or for first + j itself
  // where neuron is null. Rows are kBlock long, whatever len. `distance` is Layout::pair_distance(). Meanwhile the rows
  // of both that are used next are fetched, those that are not null, `size` bytes for each neuron.
  void (*noise)(uint64_t seed, const int64_t* neuron, int64_t distance, int64_t first, int64_t len, uint32_t block,
                float* const z[kStepsPerBlock], const void* const* next[2], int64_t size);
  NeuronKernels neurons[Neurons::kCount];
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
