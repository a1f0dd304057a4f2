// x86-64-v4: 512-bit vectors.
#pragma once

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("arch=x86-64-v4"))), apply_to = function)
#define TGO_ISA_END _Pragma("clang attribute pop")
#else
#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")
#define TGO_ISA_END
#endif
#include <immintrin.h>

#include "kernels.h"

namespace tgo::cpu::avx512 {
typedef float F __attribute__((vector_size(64)));
typedef float HalfF __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(64)));
typedef uint64_t Lanes __attribute__((vector_size(64)));
struct LaneOps {
  static TGO_HD Lanes multiply(Lanes word, uint32_t by) {
    return (Lanes)_mm512_maskz_mul_epu32(0xFF, (__m512i)word, _mm512_set1_epi64(by));
  }
  static TGO_HD Lanes exclusive_or(Lanes a, Lanes b, Lanes c) {
    return (Lanes)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0x96);
  }
};
struct Exact {
  static TGO_HD F root(F x) { return (F)_mm512_maskz_sqrt_ps(0xFFFF, (__m512)x); }
  static TGO_HD F product_plus(F x, float scale, F c) {
    return (F)_mm512_fmadd_ps((__m512)x, _mm512_set1_ps(scale), (__m512)c);
  }
};
struct Widen {
  TGO_HD Doubles operator()(HalfF half) const {
    return (Doubles)_mm512_maskz_cvtps_pd(0xFF, (__m256)half);
  }
};
struct Stream {
  TGO_HD void operator()(float* to, F value) const { _mm512_stream_ps(to, (__m512)value); }
};
struct Equal {
  static TGO_HD uint32_t lanes(Word<F> x, uint32_t code) {
    return _mm512_cmpeq_epi32_mask((__m512i)x, _mm512_set1_epi32(code));
  }
};
}  // namespace tgo::cpu::avx512

#define TGO_ISA avx512
#define TGO_ISA_NAME "AVX-512"
