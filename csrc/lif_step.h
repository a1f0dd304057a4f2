// One step of the neuron, forward and backward: shared by every C++ engine, on the host and on the device.
// The order of the operations is the specification's (tgo_kernels/reference.py); compile without fp contraction.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__CUDACC__)
#define TGO_HD __host__ __device__ __forceinline__
#else
#define TGO_HD inline __attribute__((always_inline))
#endif

namespace tgo {

enum Noise : int { kNoNoise = 0, kMembraneNoise = 1, kThresholdNoise = 2 };

// Neuron.scalars of the Python side, rounded once to fp32.
struct Neuron {
  float decay, gain, leak_bias, v_threshold, v_rest, noise_std, guard_margin, curve_height, curve_scale;
};

template <class To, class From>
TGO_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

TGO_HD float charge(float v, float x, const Neuron& n) { return n.decay * v + n.gain * x + n.leak_bias; }

template <Noise noise>
TGO_HD float disturb(float h, float xi, const Neuron& n) {
  return noise == kNoNoise ? h : h + n.noise_std * xi;
}

// The potential that the reset acts on.
template <Noise noise>
TGO_HD float carried(float h, float u) {
  return noise == kThresholdNoise ? h : u;
}

template <bool soft>
TGO_HD float reset(bool fired, float w, const Neuron& n) {
  const float after = soft ? w - n.v_threshold : n.v_rest;
  return fired ? after : w;
}

// One term of the penalty. A NaN membrane gives NaN.
TGO_HD float guard(float distance, const Neuron& n) {
  const float depth = n.guard_margin - distance;
  return depth < 0.f ? 0.f : depth;
}

// dL/dh of one step from z = surrogate derivative, g_s = dL/ds and g_v = dL/dv; k = dL/dpenalty / (T*N).
template <Noise noise, bool soft, bool guarded, bool detach_reset>
TGO_HD float step_backward(float h, float u, float z, float g_s, float g_v, float k, const Neuron& n) {
  const float w = carried<noise>(h, u);
  const float jump = soft ? -n.v_threshold : n.v_rest - w;
  const float ds = detach_reset ? g_s : g_s + g_v * jump;
  const float direct = soft ? g_v : (u >= n.v_threshold ? 0.f : g_v);
  float g_h = ds * z + direct;
  if (guarded) {
    const float d = h - n.v_threshold;
    const float toward = d > 0.f ? k : (d < 0.f ? -k : 0.f);
    g_h = g_h - (fabsf(d) < n.guard_margin ? toward : 0.f);
  }
  return g_h;
}

}  // namespace tgo
