// What tensors are stored in: fp32, fp16 and bf16, to fp32 and back.
#pragma once

#include "numbers.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace tgo {

enum class Storage { kFloat, kHalf, kBFloat16 };

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// f<S>() for what values are stored in.
template <class Body>
inline auto as_stored(Storage storage, const Body& f) {
  if (storage == Storage::kHalf) return f.template operator()<Half>();
  if (storage == Storage::kBFloat16) return f.template operator()<BFloat16>();
  return f.template operator()<float>();
}

// Of the bits of a stored value, each in a word of 32, and back: to the nearest, ties to even; NaN stays a (quiet) NaN.
template <class S, class F>
TGO_HD F widened(Word<F> x) {
  if constexpr (std::is_same_v<S, float>) return bit_cast<F>(x);
  if constexpr (std::is_same_v<S, BFloat16>) return bit_cast<F>(x << 16);
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<S, Half>) return __half2float(__ushort_as_half(uint16_t(x)));
#endif
  const Word<F> magnitude = (x & 0x7FFF) << 13;
  // Scaling by 2^112 mends the exponent's bias and normalises subnormals; infinities and NaN keep a full exponent.
  const Word<F> finite = bit_cast<Word<F>>(bit_cast<F>(magnitude) * 5.192296858534828e33f);
  const Word<F> bits = magnitude >= 0x0F800000 ? magnitude | 0x7F800000 : finite;
  return bit_cast<F>(bits | (x & 0x8000) << 16);
}

template <class S, class F>
TGO_HD Word<F> narrowed(F x) {
  using W = Word<F>;
  const W bits = bit_cast<W>(x), magnitude = bits & 0x7FFFFFFF;
  if constexpr (std::is_same_v<S, float>) return bits;
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<S, BFloat16>) return __bfloat16_as_ushort(__float2bfloat16_rn(x));
  if constexpr (std::is_same_v<S, Half>) return __half_as_ushort(__float2half_rn(x));
#endif
  if constexpr (std::is_same_v<S, BFloat16>)
    return magnitude > 0x7F800000 ? W{} + 0x7FC0 : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  const W normal = (magnitude - 0x38000000 + 0xFFF + (magnitude >> 13 & 1)) >> 13;
  // Adding 1/2 leaves a subnormal's bits, rounded by the addition, at the bottom of the sum.
  const W subnormal = bit_cast<W>(bit_cast<F>(magnitude) + 0.5f) - 0x3F000000;
  const W finite = magnitude < 0x38800000 ? subnormal : normal;
  const W special = magnitude > 0x7F800000 ? W{} + 0x7E00 : W{} + 0x7C00;
  return (magnitude >= 0x477FF000 ? special : finite) | (bits >> 16 & 0x8000);
}

// Of -1, 0 and 1 in 16 bits.
template <class S, class F>
TGO_HD Word<F> narrowed_spike(F x) {
  const Word<F> high = bit_cast<Word<F>>(x) >> 16;
  return std::is_same_v<S, Half> ? high & 0xBC00 : high;
}

}  // namespace tgo
