// Printed by tgo_kernels/printer.py from the step of tgo_kernels/neurons/synaptic_lif.py.
#pragma once

#include "../fire.h"

namespace tgo {

struct SynapticLif {
  static constexpr int kStates = 2, kInputs = 1, kConstants = 9;
  static constexpr Spikes kSpikes = Spikes::kBinary;

  template <class F, class Flags>
  static TGO_HD void step(F states[], const F inputs[], const F constants[], const Flags& f, F xi, Fired<F>* found) {
    const F v = states[0];
    const F i = states[1];
    const F x = inputs[0];
    const F decay = constants[0];
    const F gain = constants[1];
    const F leak_bias = constants[2];
    const F v_threshold = constants[3];
    const F reset_by = constants[4];
    const F noise_std = constants[5];
    const F current_decay = constants[6];
    const F scale = constants[7];
    const F shift = constants[8];
    const F t0 = current_decay * i + (scale * x + shift);
    const F after = fire(decay * v + gain * t0 + leak_bias, v_threshold, reset_by, noise_std, f, xi, found);
    states[0] = after;
    states[1] = t0;
  }

  template <class F, class Flags>
  static TGO_HD void step_back(const F states[], const F inputs[], const F constants[], const Fired<F>& fired,
                               const Flags& f, F xi, F g_s, F g_m, F g_states[], F g_inputs[],
                               F g_constants[]) {
    const F v = states[0];
    const F i = states[1];
    const F x = inputs[0];
    const F decay = constants[0];
    const F gain = constants[1];
    const F current_decay = constants[6];
    const F scale = constants[7];
    const F shift = constants[8];
    const F g_v = g_states[0];
    const F g_i = g_states[1];
    const auto [g_h, g_threshold, g_by, g_std] = fire_back(g_s, g_v, g_m, fired, f, xi);
    const F t0 = g_i + g_h * gain;
    g_states[0] = g_h * decay;
    g_states[1] = t0 * current_decay;
    g_inputs[0] = t0 * scale;
    g_constants[0] = g_h * v;
    g_constants[1] = g_h * (current_decay * i + (scale * x + shift));
    g_constants[2] = g_h;
    g_constants[3] = g_threshold;
    g_constants[4] = g_by;
    g_constants[5] = g_std;
    g_constants[6] = t0 * i;
    g_constants[7] = t0 * x;
    g_constants[8] = t0;
  }
};

}  // namespace tgo
