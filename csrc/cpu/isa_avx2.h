// x86-64-v3: 256-bit vectors.
#pragma once

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("arch=x86-64-v3"))), apply_to = function)
#define TGO_ISA_END _Pragma("clang attribute pop")
#else
#pragma GCC target("arch=x86-64-v3")
#define TGO_ISA_END
#endif
#include <immintrin.h>

#include "kernels.h"

namespace tgo::cpu::avx2 {
typedef float F __attribute__((vector_size(32)));
typedef float HalfF __attribute__((vector_size(16)));
typedef double Doubles __attribute__((vector_size(32)));
typedef uint64_t Lanes __attribute__((vector_size(32)));
struct LaneOps {
  static TGO_HD Lanes multiply(Lanes word, uint32_t by) {
    return (Lanes)_mm256_mul_epu32((__m256i)word, _mm256_set1_epi64x(by));
  }
  static TGO_HD Lanes exclusive_or(Lanes a, Lanes b, Lanes c) {
    return a ^ b ^ c;
  }
};
struct Exact {
  static TGO_HD F root(F x) { return (F)_mm256_sqrt_ps((__m256)x); }
  static TGO_HD F product_plus(F x, float scale, F c) {
    return (F)_mm256_fmadd_ps((__m256)x, _mm256_set1_ps(scale), (__m256)c);
  }
};
struct Widen {
  TGO_HD Doubles operator()(HalfF half) const {
    return (Doubles)_mm256_cvtps_pd((__m128)half);
  }
};
struct Stream {
  TGO_HD void operator()(float* to, F value) const { _mm256_stream_ps(to, (__m256)value); }
};
struct Equal {
  static TGO_HD uint32_t lanes(Word<F> x, uint32_t code) {
    return _mm256_movemask_ps((__m256)(x == Word<F>{} + code));
  }
};
}  // namespace tgo::cpu::avx2

#define TGO_ISA avx2
#define TGO_ISA_NAME "AVX2"
