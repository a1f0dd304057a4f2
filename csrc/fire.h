// Firing: noise, threshold, reset and penalty, and their reverse; what every neuron's step is written around. Shared by
// the C++ engines. The order of the operations is the specification's (tgo_kernels/reference.py); compile without fp
// contraction.
#pragma once

#include "surrogate.h"

namespace tgo {

enum class Spikes { kBinary, kTernary, kInteger };  // 0 or 1; -1, 0 or 1; 0, 1, 2 ... up to the threshold
enum class Noise { kNone, kMembrane, kThreshold };  // where it stays: it decides the spike in both
enum class Reset { kHard, kSoft, kSubtracted };     // to rest, by the threshold, by a constant of its own
enum class Membrane { kNone, kCharged, kNoisy, kReset };  // which one is an output: h, u, or the state after the step

// Of all neurons of a call.
struct Numbers {
  float v_rest, guard_margin, curve_height, curve_scale;
  float grid;  // 0, or the penalty is of squares, rounded to multiples of this power of two's ulp, whose sum is exact
  float pull;  // dL/dpenalty / (T*N)
  Curve curve;
};

// What of a firing only the call knows.
struct Any : Numbers {
  Noise noise;
  Reset reset;
  Membrane membrane;
  bool guard, below, strict, surrogate_at_h, detach_reset;  // below: only membranes below the threshold are penalised

  template <class F>
  TGO_HD F slope(F d) const {
    return surrogate_of<kAnyCurve>(curve, d, curve_height, curve_scale);
  }
};

// The same, as a compiler can know it.
template <Noise kNoise, Reset kReset, bool kGuard>
struct Known : Numbers {
  static constexpr Noise noise = kNoise;
  static constexpr Reset reset = kReset;
  static constexpr Membrane membrane = Membrane::kNone;
  static constexpr bool guard = kGuard, below = false, strict = false, surrogate_at_h = false;
  static constexpr float grid = 0;
  bool detach_reset;

  Known(const Any& any) : Numbers(any), detach_reset(any.detach_reset) {}
  static bool is(const Any& any) {
    // A margin of 0 costs little beside the noise.
    return any.noise == kNoise && any.reset == kReset && (any.guard == kGuard || (kGuard && kNoise != Noise::kNone)) &&
           any.membrane == membrane && !any.below && !any.strict && !any.surrogate_at_h && any.grid == 0;
  }

  template <class F>
  TGO_HD F slope(F d) const {
    return surrogate_of<kAnyCurve>(curve, d, curve_height, curve_scale);
  }
};

// Flags of a neuron whose step has such spikes.
template <class Flags, Spikes kSpikes>
struct Spiking : Flags {
  static constexpr Spikes spikes = kSpikes;

  TGO_HD Spiking(const Any& any) : Flags(any) {}
};

// The membrane before and after the noise, what it is held against, and what the reset subtracts; of integers how many
// there are at the most, and what each of them is as an output.
template <class F>
struct Fired {
  F h, u, threshold, by;
};

// What of a membrane is held against the threshold.
template <class F, class Flags>
TGO_HD F size_of(F v, const Flags&) {
  if constexpr (Flags::spikes == Spikes::kTernary) return absolute(v);
  return v;
}

// How far a membrane is past the threshold; of integers 0, or 1 where it is outside of what they round.
template <class F, class Flags>
TGO_HD F distance_of(F v, const Fired<F>& fired, const Flags& f) {
  if constexpr (Flags::spikes == Spikes::kInteger)
    return ((v >= 0.f) & (v <= fired.threshold)) ? splat<F>(0.f) : splat<F>(1.f);
  return size_of(v, f) - fired.threshold;
}

// x, or -x where spikes have a sign and that of a membrane is negative.
template <class F, class Flags>
TGO_HD F along(F v, F x, const Flags&) {
  if constexpr (Flags::spikes == Spikes::kTernary) return v < 0.f ? splat<F>(0.f) - x : x;
  return x;
}

// The nearest integer, half to even.
template <class F>
TGO_HD F integer_of(const Fired<F>& fired) {
  const F positive = fired.u > 0.f ? fired.u : splat<F>(0.f);
  const F bounded = positive < fired.threshold ? positive : fired.threshold;
  return (bounded + 8388608.f) - 8388608.f;  // 2^23
}

template <class F, class Flags>
TGO_HD auto fires(const Fired<F>& fired, const Flags& f) {
  if constexpr (Flags::spikes == Spikes::kInteger) {
    return integer_of(fired) > 0.f;
  } else {
    const F u = size_of(fired.u, f);
    return f.strict ? u > fired.threshold : u >= fired.threshold;
  }
}

// `one` is 1, or 0 for what is none.
template <class F, class Flags>
TGO_HD F spike_of(const Fired<F>& fired, const Flags& f, F one = splat<F>(1.f)) {
  if constexpr (Flags::spikes == Spikes::kInteger) return integer_of(fired) * fired.by * one;
  return fires(fired, f) ? along(fired.u, one, f) : splat<F>(0.f);
}

// As how many it counts.
template <class F, class Flags>
TGO_HD F count_of(const Fired<F>& fired, const Flags& f, F spike, F one = splat<F>(1.f)) {
  if constexpr (Flags::spikes == Spikes::kInteger) return integer_of(fired) * one;
  return size_of(spike, f);
}

// The potential that the reset acts on.
template <class F, class Flags>
TGO_HD F carried(const Fired<F>& fired, const Flags& f) {
  return f.noise == Noise::kThreshold ? fired.h : fired.u;
}

template <class F, class Flags>
TGO_HD F subtracted(const Fired<F>& fired, const Flags& f) {
  return f.reset == Reset::kSubtracted ? fired.by : fired.threshold;
}

// The membrane after the step.
template <class F, class Flags>
TGO_HD F after_of(const Fired<F>& fired, const Flags& f) {
  const F w = carried(fired, f);
  if constexpr (Flags::spikes == Spikes::kInteger) return w - integer_of(fired);
  const F after = f.reset == Reset::kHard ? splat<F>(f.v_rest) : w - along(fired.u, subtracted(fired, f), f);
  return fires(fired, f) ? after : w;
}

template <class F, class Flags>
TGO_HD F fire(F h, F threshold, F by, F noise_std, const Flags& f, F xi, Fired<F>* found) {
  *found = {h, f.noise == Noise::kNone ? h : h + noise_std * xi, threshold, by};
  return after_of(*found, f);
}

// The membrane that is an output, from the one after the step.
template <class F, class Flags>
TGO_HD F membrane_of(const Fired<F>& fired, F after, const Flags& f) {
  return f.membrane == Membrane::kCharged ? fired.h : f.membrane == Membrane::kNoisy ? fired.u : after;
}

// One term of the penalty, from h - threshold. A NaN membrane gives NaN.
template <class F, class Flags>
TGO_HD F guard_term(F d, const Flags& f) {
  const F hinge = positive_part(f.guard_margin - absolute(d));
  const F term = f.grid == 0.f ? hinge : (hinge * hinge + f.grid) - f.grid;
  return f.below ? (d >= 0.f ? splat<F>(0.f) : term) : term;
}

template <class F>
struct FireGradient {
  F h, threshold, by, noise_std;
};

// From g_s = dL/ds, g_v = dL/d(the membrane after the step), and g_m = dL/d(the membrane that is an output).
template <class F, class Flags>
TGO_HD FireGradient<F> fire_back(F g_s, F g_v, F g_m, const Fired<F>& fired, const Flags& f, F xi) {
  const F zero = splat<F>(0.f);
  constexpr bool integer = Flags::spikes == Spikes::kInteger;
  if (f.membrane == Membrane::kReset) g_v = g_v + g_m;
  const auto s = fires(fired, f);
  const bool hard = !integer && f.reset == Reset::kHard;
  const F past = hard ? (s ? zero : g_v) : g_v;
  const F g_subtracted = integer || hard ? zero : (s ? -along(fired.u, g_v, f) : zero);
  F ds = integer ? g_s * fired.by : g_s;
  if (!f.detach_reset) {
    const F jump = integer ? splat<F>(-1.f)
                   : hard  ? along(fired.u, f.v_rest - carried(fired, f), f)
                           : -subtracted(fired, f);
    ds = g_v == 0.f ? ds : ds + g_v * jump;  // the jump may be infinite
  }
  const F z = f.slope(distance_of(f.surrogate_at_h ? fired.h : fired.u, fired, f));
  const F through = ds == 0.f ? ds : ds * z;  // z of a NaN membrane is NaN
  const F up = integer ? zero : along(fired.u, through, f);
  F g_u = through + (f.noise == Noise::kThreshold ? zero : past);
  F g_h = through + past, g_threshold = f.reset == Reset::kSoft ? g_subtracted - up : -up;
  if (f.membrane == Membrane::kNoisy) g_u = g_u + g_m;
  if (f.membrane == Membrane::kCharged || f.membrane == Membrane::kNoisy) g_h = g_h + g_m;
  if (f.guard) {
    const F d = distance_of(fired.h, fired, f);
    F pull = bit_cast<F>(bit_cast<Word<F>>(splat<F>(-f.pull)) ^ (bit_cast<Word<F>>(d) & 0x80000000u));  // -k sign(d)
    if (f.grid != 0.f) pull = pull * (2.f * (f.guard_margin - absolute(d)));
    if (f.below) pull = d < 0.f ? pull : zero;
    const F counted = ((absolute(d) < f.guard_margin) & (d != 0.f)) ? pull : zero;
    g_h = g_h + along(fired.h, counted, f);
    g_threshold = g_threshold - counted;
  }
  return {g_h, g_threshold, g_subtracted, g_u * xi};
}

}  // namespace tgo
