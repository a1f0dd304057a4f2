// The curves of tgo_kernels/surrogate.py: z(d) with height a and scale b. The numbers of Curve are shared with Python.
#pragma once

#include "lif_step.h"

namespace tgo {

enum Curve : int { kLorentz, kLogistic, kTriangle, kBox, kExponential, kInverseSquare, kGaussian, kCurves };

// exp(x) for x <= 0 to about 1 ulp; 0 below -87; NaN stays NaN. Polynomial of Cephes' expf (Moshier).
TGO_HD float exp_negative(float x) {
  const float clamped = x < -87.f ? -87.f : x;
  const float shifter = 12582912.f;  // 1.5 * 2^23: the sum's low bits are round(x / ln 2)
  const float shifted = clamped * 1.44269504f + shifter;
  const float n = shifted - shifter;
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  const float scale = bit_cast<float>((bit_cast<int32_t>(shifted) << 23) + 0x3F800000);
  return x < -87.f ? 0.f : p * scale;
}

template <Curve curve>
TGO_HD float surrogate(float d, float a, float b) {
  const float distance = fabsf(d);
  if (curve == kLorentz) return a / (1.f + (b * d) * (b * d));
  if (curve == kLogistic) {
    const float e = exp_negative(-b * distance);
    return a * e / ((1.f + e) * (1.f + e));
  }
  if (curve == kTriangle) {
    const float y = a - b * distance;
    return y < 0.f ? 0.f : y;
  }
  if (curve == kBox) return distance < b ? a : 0.f;
  if (curve == kExponential) return a * exp_negative(-b * distance);
  if (curve == kInverseSquare) return a / ((1.f + b * distance) * (1.f + b * distance));
  return a * exp_negative(-((b * d) * (b * d)));
}

}  // namespace tgo
