// Firing: noise, threshold, reset and penalty, and their reverse; what every neuron's step is written around. Shared by
// the C++ engines. The order of the operations is the specification's (tgo_kernels/reference.py); compile without fp
// contraction.
#pragma once

#include "surrogate.h"

namespace tgo {

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

// The membrane before and after the noise, and what it is held against.
template <class F>
struct Fired {
  F h, u, threshold, by;
};

template <class F, class Flags>
TGO_HD auto fires(const Fired<F>& fired, const Flags& f) {
  return f.strict ? fired.u > fired.threshold : fired.u >= fired.threshold;
}

template <class F, class Flags>
TGO_HD F spike_of(const Fired<F>& fired, const Flags& f) {
  return fires(fired, f) ? splat<F>(1.f) : splat<F>(0.f);
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
  const F after = f.reset == Reset::kHard ? splat<F>(f.v_rest) : w - subtracted(fired, f);
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
  if (f.membrane == Membrane::kReset) g_v = g_v + g_m;
  const auto s = fires(fired, f);
  const F past = f.reset == Reset::kHard ? (s ? zero : g_v) : g_v;
  const F g_subtracted = f.reset == Reset::kHard ? zero : (s ? -g_v : zero);
  F ds = g_s;
  if (!f.detach_reset) {
    const F jump = f.reset == Reset::kHard ? f.v_rest - carried(fired, f) : -subtracted(fired, f);
    ds = g_v == 0.f ? g_s : g_s + g_v * jump;  // the jump may be infinite
  }
  const F z = f.slope((f.surrogate_at_h ? fired.h : fired.u) - fired.threshold);
  const F through = ds == 0.f ? ds : ds * z;  // z of a NaN membrane is NaN
  F g_u = through + (f.noise == Noise::kThreshold ? zero : past);
  F g_h = through + past, g_threshold = f.reset == Reset::kSoft ? g_subtracted - through : -through;
  if (f.membrane == Membrane::kNoisy) g_u = g_u + g_m;
  if (f.membrane == Membrane::kCharged || f.membrane == Membrane::kNoisy) g_h = g_h + g_m;
  if (f.guard) {
    const F d = fired.h - fired.threshold;
    F pull = bit_cast<F>(bit_cast<Word<F>>(splat<F>(-f.pull)) ^ (bit_cast<Word<F>>(d) & 0x80000000u));  // -k sign(d)
    if (f.grid != 0.f) pull = pull * (2.f * (f.guard_margin - absolute(d)));
    if (f.below) pull = d < 0.f ? pull : zero;
    const F counted = (absolute(d) < f.guard_margin) & (d != 0.f) ? pull : zero;
    g_h = g_h + counted;
    g_threshold = g_threshold - counted;
  }
  return {g_h, g_threshold, g_subtracted, g_u * xi};
}

}  // namespace tgo
