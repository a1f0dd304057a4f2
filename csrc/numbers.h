// What the neuron's arithmetic is written in: F is float on the device, and a vector of floats on the CPU, so that one
// source serves both and vectorises by construction.
#pragma once

#include <stdint.h>
#include <string.h>

#include <type_traits>

#if defined(__CUDACC__)
#define TGO_HD __host__ __device__ __forceinline__
#define TGO_UNROLL _Pragma("unroll")
#define TGO_IN_TURN _Pragma("unroll 1")
#define TGO_PRAGMA(text) _Pragma(#text)
#define TGO_AT_ONCE(count) TGO_PRAGMA(unroll count)
#else
#define TGO_HD inline __attribute__((always_inline))
#ifdef __clang__
#define TGO_UNROLL _Pragma("unroll")
#define TGO_IN_TURN _Pragma("nounroll")
#else
#define TGO_UNROLL _Pragma("GCC unroll 16")
#define TGO_IN_TURN _Pragma("GCC unroll 1")
#endif
#define TGO_AT_ONCE(count)
#endif

namespace tgo {

// The integers as wide as F, and what a comparison of two F gives.
template <class F>
struct Wide {
  typedef int32_t Int __attribute__((vector_size(sizeof(F))));
  typedef uint32_t Word __attribute__((vector_size(sizeof(F))));
};
template <>
struct Wide<float> {
  using Int = int32_t;
  using Word = uint32_t;
};
template <class F>
using Int = typename Wide<F>::Int;
template <class F>
using Word = typename Wide<F>::Word;

template <class To, class From>
TGO_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

template <class F, class Value>
TGO_HD F splat(Value value) {
  if constexpr (std::is_same_v<F, Value>)
    return value;
  else
    return F{} + value;
}

// Signed integers to the nearest floats.
template <class F>
TGO_HD F to_float(Int<F> i) {
  if constexpr (std::is_same_v<F, float>)
    return float(i);
  else
    return __builtin_convertvector(i, F);
}

template <class F>
TGO_HD F absolute(F x) {
#if defined(__CUDA_ARCH__)
  return fabsf(x);
#else
  return bit_cast<F>(bit_cast<Int<F>>(x) & 0x7FFFFFFF);
#endif
}

// max(0, x) that keeps NaN.
template <class F>
TGO_HD F positive_part(F x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("max.NaN.f32 %0, %0, 0f00000000;" : "+f"(x));
  return x;
#else
  return x < 0.f ? splat<F>(0.f) : x;
#endif
}

// As torch.maximum and torch.minimum: NaN where one is.
template <class F, class Other>
TGO_HD F larger(F a, Other b) {
  const F other = splat<F>(b);
  return ((a >= other) | (a != a)) ? a : other;
}

template <class F, class Other>
TGO_HD F smaller(F a, Other b) {
  const F other = splat<F>(b);
  return ((a <= other) | (a != a)) ? a : other;
}

}  // namespace tgo
