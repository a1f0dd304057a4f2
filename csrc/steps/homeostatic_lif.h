// Printed by tgo_kernels/printer.py from the step of tgo_kernels/neurons/homeostatic_lif.py.
#pragma once

#include "../fire.h"

namespace tgo {

struct HomeostaticLif {
  static constexpr int kStates = 2, kInputs = 1, kConstants = 9;
  static constexpr Spikes kSpikes = Spikes::kBinary;

  template <class F, class Flags>
  static TGO_HD void step(F states[], const F inputs[], const F constants[], const Flags& f, F xi, Fired<F>* found) {
    const F v = states[0];
    const F e = states[1];
    const F x = inputs[0];
    const F decay = constants[0];
    const F gain = constants[1];
    const F leak_bias = constants[2];
    const F v_threshold = constants[3];
    const F reset_by = constants[4];
    const F noise_std = constants[5];
    const F theta = constants[6];
    const F target = constants[7];
    const F adapts = constants[8];
    const F t0 = decay * v + gain * x + leak_bias;
    const F t1 = e + theta * (t0 - target);
    const F after = fire(t0, v_threshold + (adapts * t1 + (1.0f - adapts) * t1), reset_by, noise_std, f, xi, found);
    states[0] = after;
    states[1] = t1;
  }

  template <class F, class Flags>
  static TGO_HD void step_back(const F states[], const F inputs[], const F constants[], const Fired<F>& fired,
                               const Flags& f, F xi, F g_s, F g_m, F g_states[], F g_inputs[],
                               F g_constants[]) {
    const F v = states[0];
    const F e = states[1];
    const F x = inputs[0];
    const F decay = constants[0];
    const F gain = constants[1];
    const F theta = constants[6];
    const F target = constants[7];
    const F adapts = constants[8];
    const F g_v = g_states[0];
    const F g_e = g_states[1];
    const F t0 = fired.h - target;
    const F t1 = e + theta * t0;
    const auto [g_h, g_threshold, g_by, g_std] = fire_back(g_s, g_v, g_m, fired, f, xi);
    const F t2 = g_e + g_threshold * adapts;
    const F t3 = t2 * theta;
    const F t4 = g_h + t3;
    g_states[0] = t4 * decay;
    g_states[1] = t2;
    g_inputs[0] = t4 * gain;
    g_constants[0] = t4 * v;
    g_constants[1] = t4 * x;
    g_constants[2] = t4;
    g_constants[3] = g_threshold;
    g_constants[4] = g_by;
    g_constants[5] = g_std;
    g_constants[6] = t2 * t0;
    g_constants[7] = -t3;
    g_constants[8] = -(g_threshold * t1) + g_threshold * t1;
  }
};

}  // namespace tgo
