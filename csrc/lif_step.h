// One step of the neuron, forward and backward: shared by every C++ engine.
// The order of the operations is the specification's (tgo_kernels/reference.py); compile without fp contraction.
#pragma once

#include "numbers.h"

namespace tgo {

// Neuron.constants of the Python side: the numbers rounded once to fp32, and the switches.
struct Shared {
  float v_rest, noise_std, guard_margin, curve_height, curve_scale;
  bool soft_reset, noise_in_membrane, surrogate_at_h, detach_reset;
};

// C is float for constants of all neurons, F for those of neurons side by side.
template <class C = float>
struct Neuron : Shared {
  C decay, gain, leak_bias, v_threshold;
};

// kUsual: the noise stays in the membrane, and of the neuron's switches all others are off.
enum class Noise { kNone, kAny, kUsual };

// The same constants, with their switches as a compiler can know them.
template <Noise noise>
TGO_HD Neuron<> with_known(Neuron<> n) {
  if constexpr (noise == Noise::kUsual) {
    n.noise_in_membrane = true;
    n.soft_reset = n.surrogate_at_h = n.detach_reset = false;
  }
  return n;
}

template <class C>
TGO_HD Neuron<C> with_own(const Shared& shared, C decay, C gain, C v_threshold) {
  return {shared, decay, gain, (1.f - decay) * shared.v_rest, v_threshold};
}

template <class F, class C>
TGO_HD F charge(F v, F x, const Neuron<C>& n) {
  return n.decay * v + n.gain * x + n.leak_bias;
}

template <class F>
TGO_HD F disturb(F h, F xi, const Shared& n) {
  return h + n.noise_std * xi;
}

// The potential that the reset acts on.
template <class F>
TGO_HD F carried(F h, F u, const Shared& n) {
  return n.noise_in_membrane ? u : h;
}

// v after the step.
template <class F, class C>
TGO_HD F reset(F h, F u, const Neuron<C>& n) {
  const F w = carried(h, u, n);
  const F after = n.soft_reset ? w - n.v_threshold : splat<F>(n.v_rest);
  return u >= n.v_threshold ? after : w;
}

// One term of the penalty. A NaN membrane gives NaN.
template <class F>
TGO_HD F guard(F distance, const Shared& n) {
  return positive_part(n.guard_margin - distance);
}

// dL/du of one step without the penalty is the sum of the two.
template <class F>
struct StepGradient {
  F through_spike, past_reset;
};

// From z = surrogate derivative, g_s = dL/ds and g_v = dL/dv.
template <class F, class C>
TGO_HD StepGradient<F> step_backward(F h, F u, F z, F g_s, F g_v, const Neuron<C>& n) {
  F ds = g_s;
  if (!n.detach_reset) {
    const F jump = n.soft_reset ? -splat<F>(n.v_threshold) : n.v_rest - carried(h, u, n);
    ds = g_v == 0.f ? g_s : g_s + g_v * jump;  // the jump may be infinite
  }
  const F past_reset = n.soft_reset ? g_v : (u >= n.v_threshold ? splat<F>(0.f) : g_v);
  return {ds == 0.f ? ds : ds * z, past_reset};  // z of a NaN membrane is NaN
}

// What the penalty adds to dL/dh; k = dL/dpenalty / (T*N).
template <class F, class C>
TGO_HD F guard_backward(F h, float k, const Neuron<C>& n) {
  const F d = h - n.v_threshold;
  const F pull = bit_cast<F>(bit_cast<Word<F>>(splat<F>(-k)) ^ (bit_cast<Word<F>>(d) & 0x80000000u));  // -k sign(d)
  return (absolute(d) < n.guard_margin) & (d != 0.f) ? pull : splat<F>(0.f);
}

// dL/dv_threshold of one step; pull is what the penalty adds to dL/dh.
template <class F, class C>
TGO_HD F threshold_backward(F u, const StepGradient<F>& g, F pull, F g_v, const Neuron<C>& n) {
  const F zero = splat<F>(0.f);
  const F subtracted = n.soft_reset ? (u >= n.v_threshold ? g_v : zero) : zero;
  return -(g.through_spike + pull + subtracted);
}

}  // namespace tgo
