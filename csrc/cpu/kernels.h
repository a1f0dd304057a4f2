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

// Rows of consecutive steps, as they are stored or, of neurons other than LIF, in fp32.
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
  Storage storage;  // of rows
  uint32_t own;  // bit k: neurons have their own constant k
  bool rare;     // sequences end, or constants have a time axis
};

struct NeuronKernels {
  ForwardKernel (*forward)(const Kind&);
  BackwardKernel (*backward)(const Kind&);
};

constexpr int kWord = 64;  // elements that are packed at once
constexpr int kMaxPlanes = 3;

// The values that the elements of a tensor have, by their bits, and their numbers: element j has bit j % 64 of word
// j / 64 of each plane.
struct Codes {
  int32_t size = 0, unused = 0;
  uint32_t of[1 << kMaxPlanes] = {};

  TGO_HD int planes() const { return size <= 1 ? 0 : size <= 2 ? 1 : size <= 4 ? 2 : 3; }

  bool knows(uint32_t bits) const {
    for (int k = 0; k < size; ++k)
      if (of[k] == bits) return true;
    return false;
  }
  // False where there is no room for one more.
  bool add(uint32_t bits) {
    if (size == 1 << kMaxPlanes) return false;
    of[size++] = bits;
    return true;
  }
};

// A max pool of planes [size, inner].
struct Pool {
  int64_t inner, size[2], window[2], stride[2], padding[2], dilation[2], outputs[2];
  float* best;  // scratch: of a row of outputs, or going back, of a plane in fp32

  int64_t elements() const { return size[0] * size[1] * inner; }
  int64_t row() const { return outputs[1] * inner; }
  bool quads() const {
    return inner == 1 && window[0] == 2 && window[1] == 2 && stride[0] == 2 && stride[1] == 2 && !padding[0] &&
           !padding[1] && dilation[0] == 1 && dilation[1] == 1 && size[0] / 2 == outputs[0] &&
           size[1] / 2 == outputs[1];
  }
};

constexpr uint8_t kNoWinner = 255;  // so many taps a window may have

// Spikes of neurons by chance: x, a row of their probabilities, and rows of four steps, or null.
struct Chances {
  const void* x;
  void* rows[kStepsPerBlock];
  int64_t len;
  bool with_sign;  // of x, whose size is the probability
};

struct Kernels {
  const char* name;
  // z[i][j]: the four normals of Philox block `block` for neuron[j], the first + j-th in memory, or for first + j itself
  // where neuron is null. Rows are kBlock long, whatever len. `distance` is Layout::pair_distance(). Meanwhile the rows
  // of both that are used next are fetched, those that are not null, `size` bytes for each neuron.
  void (*noise)(uint64_t seed, const int64_t* neuron, int64_t distance, int64_t first, int64_t len, uint32_t block,
                float* const z[kStepsPerBlock], const void* const* next[2], int64_t size);
  // In the four steps of that block, of neurons that are given as there.
  void (*spikes)(uint64_t seed, const int64_t* neuron, int64_t distance, int64_t first, uint32_t block, Storage,
                 const Chances&);
  // Elements as fp32, and back.
  void (*widen)(Storage, const void* from, float* to, int64_t len);
  void (*narrow)(Storage, const float* from, void* to, int64_t len);
  // Words of elements of `size` bytes as planes so many words `apart`: how many, until one that has another value.
  int64_t (*pack)(const void* from, int64_t size, int64_t words, const Codes&, uint64_t* to, int64_t apart);
  void (*unpack)(const uint64_t* from, int64_t apart, int64_t words, const Codes&, int64_t size, void* to);
  // A plane's outputs, and at which taps of their windows they are, of each of `inner` channels by its sign; and back.
  void (*pool_outputs)(const Pool&, Storage, const void* plane, const float* signs, void* outputs, uint8_t* winners);
  void (*pool_back)(const Pool&, Storage, const void* grad, const uint8_t* winners, void* g_plane);
  // Adds the sums, and those of squares, of `len` columns of rows that lie so many elements apart.
  void (*column_sums)(Storage, const void* x, int64_t rows, int64_t apart, int64_t len, double* sum, double* squares);
  // g += slope x + offset, `one` of these for all elements, or one of each.
  void (*add_affine)(Storage, void* g, const void* x, const float* slope, const float* offset, bool one, int64_t len);
  NeuronKernels neurons[Neurons::kCount];
};

#pragma GCC visibility push(hidden)
const Kernels& best_kernels();  // of this machine
#pragma GCC visibility pop

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
