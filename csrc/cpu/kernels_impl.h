// The kernels, compiled once for each instruction set (isa_*.h): it names TGO_ISA, and in that namespace F, the
// vector of floats; Lanes, as wide, of 64-bit words; LaneOps for philox(), Exact for two_normals(), Widen from HalfF to
// Doubles, Stream for stores past the caches, Equal for which lanes are. TGO_ISA_END stands behind all code for it.
// Everything here is local to that file, so that no wide code leaks into others.
#include "forms.h"

#include "bits.h"
#include "draw.h"
#include "pool.h"
#include "affine.h"

namespace tgo::cpu::TGO_ISA {
namespace {

void widen(Storage storage, const void* from, float* to, int64_t len) {
  as_stored(storage, [&]<class S>() {
    for_vectors(len, [&](int64_t j, auto count) { store(to + j, load_row<S>(from, j, count), count); });
  });
}

void narrow(Storage storage, const float* from, void* to, int64_t len) {
  as_stored(storage, [&]<class S>() {
    for_vectors(len, [&](int64_t j, auto count) { store_row<S>(to, j, load(from + j, count), count); });
  });
}

template <class... Steps>
constexpr Kernels kernels_of(House<Steps...>) {
  return {TGO_ISA_NAME, noise, spikes, widen,       narrow,     pack, unpack,
          pool_outputs, pool_back, column_sums, add_affine,
          {kernels_for<Steps>...}};
}

}  // namespace

const Kernels kernels = kernels_of(Neurons());

}  // namespace tgo::cpu::TGO_ISA

TGO_ISA_END
