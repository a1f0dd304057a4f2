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

TGO_HD float widen(float x) { return x; }

TGO_HD float widen(BFloat16 x) { return bit_cast<float>(uint32_t(x.bits) << 16); }

TGO_HD float widen(Half x) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(x.bits));
#else
  const uint32_t magnitude = uint32_t(x.bits & 0x7FFF) << 13;
  // Scaling by 2^112 mends the exponent's bias and normalises subnormals; infinities and NaN keep a full exponent.
  const uint32_t finite = bit_cast<uint32_t>(bit_cast<float>(magnitude) * 5.192296858534828e33f);
  const uint32_t bits = magnitude >= 0x0F800000 ? magnitude | 0x7F800000 : finite;
  return bit_cast<float>(bits | uint32_t(x.bits & 0x8000) << 16);
#endif
}

// To the nearest, ties to even; NaN stays a (quiet) NaN.
template <class S>
TGO_HD S narrow(float x);

template <>
TGO_HD float narrow<float>(float x) {
  return x;
}

template <>
TGO_HD BFloat16 narrow<BFloat16>(float x) {
#if defined(__CUDA_ARCH__)
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t rounded = bits + 0x7FFF + (bits >> 16 & 1);
  return {uint16_t((bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded >> 16)};
#endif
}

template <>
TGO_HD Half narrow<Half>(float x) {
#if defined(__CUDA_ARCH__)
  return {__half_as_ushort(__float2half_rn(x))};
#else
  const uint32_t bits = bit_cast<uint32_t>(x), magnitude = bits & 0x7FFFFFFF;
  const uint32_t normal = (magnitude - 0x38000000 + 0xFFF + (magnitude >> 13 & 1)) >> 13;
  // Adding 1/2 leaves a subnormal's bits, rounded by the addition, at the bottom of the sum.
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3F000000;
  const uint32_t finite = magnitude < 0x38800000 ? subnormal : normal;
  const uint32_t special = magnitude > 0x7F800000 ? 0x7E00 : 0x7C00;
  return {uint16_t((magnitude >= 0x477FF000 ? special : finite) | (bits >> 16 & 0x8000))};
#endif
}

}  // namespace tgo
