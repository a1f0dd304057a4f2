// The baseline of the platform: what every machine of this architecture runs.
#pragma once

#include "kernels.h"

namespace tgo::cpu::generic {
typedef float F __attribute__((vector_size(16)));
typedef float HalfF __attribute__((vector_size(8)));
typedef double Doubles __attribute__((vector_size(16)));
typedef uint64_t Lanes __attribute__((vector_size(16)));
struct LaneOps {
  static TGO_HD Lanes multiply(Lanes word, uint32_t by) {
    return (word & 0xFFFFFFFFu) * uint64_t(by);
  }
  static TGO_HD Lanes exclusive_or(Lanes a, Lanes b, Lanes c) {
    return a ^ b ^ c;
  }
};
struct Exact {
  static TGO_HD F root(F x) {
    F root;
    for (int i = 0; i < 4; ++i) root[i] = __builtin_sqrtf(x[i]);
    return root;
  }
  static TGO_HD F product_plus(F x, float scale, F c) { return x * scale + c; }
};
struct Widen {
  TGO_HD Doubles operator()(HalfF half) const {
    return __builtin_convertvector(half, Doubles);
  }
};
struct Stream {
  TGO_HD void operator()(float* to, F value) const { memcpy(to, &value, sizeof(value)); }
};
struct Equal {
  static TGO_HD uint32_t lanes(Word<F> x, uint32_t code) {
    uint32_t bits = 0;
    for (int i = 0; i < 4; ++i) bits |= uint32_t(x[i] == code) << i;
    return bits;
  }
};
}  // namespace tgo::cpu::generic

#define TGO_ISA generic
#define TGO_ISA_NAME "generic"
#define TGO_ISA_END
