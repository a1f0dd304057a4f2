// The curves of tgo_kernels/surrogate.py: z(d) with height a and scale b. The numbers of Curve are shared with Python.
#pragma once

#include "numbers.h"

namespace tgo {

enum Curve : int { kLorentz, kLogistic, kTriangle, kBox, kExponential, kInverseSquare, kGaussian, kCurves, kAnyCurve };

constexpr bool has_exponential(Curve curve) {
  return curve == kLogistic || curve == kExponential || curve == kGaussian;
}

// exp(x) for x <= 0, and up to 60, to about 1 ulp; 0 below -87; NaN stays NaN. Coefficients of Cephes' expf (Moshier).
template <class F>
TGO_HD F exp_negative(F x) {
  const F clamped = x < -87.f ? splat<F>(-87.f) : x;
  const F shifted = clamped * 1.44269504f + 12582912.f;  // + 1.5 * 2^23: the low bits are round(x / ln 2)
  const F n = shifted - 12582912.f;
  const F r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  F p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  const F scale = bit_cast<F>((bit_cast<Int<F>>(shifted) << 23) + 0x3F800000);
  return x < -87.f ? splat<F>(0.f) : p * scale;
}

// exp(x) of any x, to about 2 ulp.
template <class F>
TGO_HD F exponential(F x) {
  const F root = exp_negative(smaller(larger(0.5f * x, -60.f), 60.f));
  return root * root;
}

// a / b for b >= 1; on the device to 2 ulp, since nothing but gradients depends on it.
template <class F>
TGO_HD F quotient(F a, F b) {
#if defined(__CUDA_ARCH__)
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(b));
  return a * inverse;
#else
  return a / b;
#endif
}

template <Curve curve, class F>
TGO_HD F surrogate(F d, float a, float b) {
  static_assert(0 <= curve && curve < kCurves, "a curve");
  if constexpr (curve == kLorentz) return quotient(splat<F>(a), (b * d) * (b * d) + 1.f);
  if constexpr (curve == kGaussian) return a * exp_negative(-((b * d) * (b * d)));
  const F distance = absolute(d);
  if constexpr (curve == kLogistic) {
    const F e = exp_negative(-b * distance);
    return quotient(a * e, (e + 1.f) * (e + 1.f));
  }
  if constexpr (curve == kTriangle) return positive_part(a - b * distance);
  if constexpr (curve == kBox) return distance < b ? splat<F>(a) : splat<F>(0.f);
  if constexpr (curve == kExponential) return a * exp_negative(-b * distance);
  return quotient(splat<F>(a), (b * distance + 1.f) * (b * distance + 1.f));
}

// kAnyCurve is one that only the call knows.
template <Curve curve, class F>
TGO_HD F surrogate_of(Curve called, F d, float a, float b) {
  if constexpr (curve != kAnyCurve) return surrogate<curve>(d, a, b);
  switch (called) {
    case kLorentz: return surrogate<kLorentz>(d, a, b);
    case kLogistic: return surrogate<kLogistic>(d, a, b);
    case kTriangle: return surrogate<kTriangle>(d, a, b);
    case kBox: return surrogate<kBox>(d, a, b);
    case kExponential: return surrogate<kExponential>(d, a, b);
    case kInverseSquare: return surrogate<kInverseSquare>(d, a, b);
    default: return surrogate<kGaussian>(d, a, b);
  }
}

}  // namespace tgo
