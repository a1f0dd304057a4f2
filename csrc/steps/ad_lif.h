// Printed by tgo_kernels/printer.py from the step of tgo_kernels/neurons/ad_lif.py.
#pragma once

#include "../fire.h"

namespace tgo {

struct AdLif {
  static constexpr int kStates = 2, kInputs = 1, kConstants = 12;
  static constexpr Spikes kSpikes = Spikes::kBinary;

  template <class F, class Flags>
  static TGO_HD void step(F states[], const F inputs[], const F constants[], const Flags& f, F xi, Fired<F>* found) {
    const F v = states[0];
    const F w = states[1];
    const F x = inputs[0];
    const F decay = constants[0];
    const F gain = constants[1];
    const F leak_bias = constants[2];
    const F v_threshold = constants[3];
    const F reset_by = constants[4];
    const F noise_std = constants[5];
    const F rho = constants[6];
    const F of_charged = constants[7];
    const F of_reset = constants[8];
    const F of_spike = constants[9];
    const F scale = constants[10];
    const F shift = constants[11];
    const F t0 = decay * v + gain * (scale * x + shift - w) + leak_bias;
    const F after = fire(t0, v_threshold, reset_by, noise_std, f, xi, found);
    const Fired<F>& fired = *found;
    states[0] = after;
    states[1] = rho * w + of_charged * t0 + of_reset * after + of_spike * spike_of(fired, f);
  }

  template <class F, class Flags>
  static TGO_HD void step_back(const F states[], const F inputs[], const F constants[], const Fired<F>& fired,
                               const Flags& f, F xi, F g_s, F g_m, F g_states[], F g_inputs[],
                               F g_constants[]) {
    const F v = states[0];
    const F w = states[1];
    const F x = inputs[0];
    const F decay = constants[0];
    const F gain = constants[1];
    const F rho = constants[6];
    const F of_charged = constants[7];
    const F of_reset = constants[8];
    const F of_spike = constants[9];
    const F scale = constants[10];
    const F shift = constants[11];
    const F g_v = g_states[0];
    const F g_w = g_states[1];
    const auto [g_h, g_threshold, g_by, g_std] = fire_back(g_s + g_w * of_spike, g_v + g_w * of_reset, g_m, fired, f, xi);
    const F t0 = g_w * of_charged + g_h;
    const F t1 = t0 * gain;
    g_states[0] = t0 * decay;
    g_states[1] = g_w * rho + -t1;
    g_inputs[0] = t1 * scale;
    g_constants[0] = t0 * v;
    g_constants[1] = t0 * (scale * x + shift - w);
    g_constants[2] = t0;
    g_constants[3] = g_threshold;
    g_constants[4] = g_by;
    g_constants[5] = g_std;
    g_constants[6] = g_w * w;
    g_constants[7] = g_w * fired.h;
    g_constants[8] = g_w * after_of(fired, f);
    g_constants[9] = g_w * spike_of(fired, f);
    g_constants[10] = t1 * x;
    g_constants[11] = t1;
  }
};

}  // namespace tgo
