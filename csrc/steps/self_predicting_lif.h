// Printed by tgo_kernels/printer.py from the step of tgo_kernels/neurons/self_predicting_lif.py.
#pragma once

#include "../fire.h"

namespace tgo {

struct SelfPredictingLif {
  static constexpr int kStates = 2, kInputs = 1, kConstants = 11;
  static constexpr Spikes kSpikes = Spikes::kBinary;

  template <class F, class Flags>
  static TGO_HD void step(F states[], const F inputs[], const F constants[], const Flags& f, F xi, Fired<F>* found) {
    const F v = states[0];
    const F p = states[1];
    const F x = inputs[0];
    const F decay = constants[0];
    const F gain = constants[1];
    const F leak_bias = constants[2];
    const F v_threshold = constants[3];
    const F reset_by = constants[4];
    const F noise_std = constants[5];
    const F rate = constants[6];
    const F of_output = constants[7];
    const F of_input = constants[8];
    const F scale = constants[9];
    const F shift = constants[10];
    const F t0 = scale * x + shift;
    const F after = fire(decay * v + gain * (t0 + p) + leak_bias, v_threshold, reset_by, noise_std, f, xi, found);
    const Fired<F>& fired = *found;
    states[0] = after;
    states[1] = (1.0f - rate) * p + rate * (of_output * spike_of(fired, f) - of_input * t0);
  }

  template <class F, class Flags>
  static TGO_HD void step_back(const F states[], const F inputs[], const F constants[], const Fired<F>& fired,
                               const Flags& f, F xi, F g_s, F g_m, F g_states[], F g_inputs[],
                               F g_constants[]) {
    const F v = states[0];
    const F p = states[1];
    const F x = inputs[0];
    const F decay = constants[0];
    const F gain = constants[1];
    const F rate = constants[6];
    const F of_output = constants[7];
    const F of_input = constants[8];
    const F scale = constants[9];
    const F shift = constants[10];
    const F g_v = g_states[0];
    const F g_p = g_states[1];
    const F t0 = scale * x + shift;
    const F t1 = g_p * rate;
    const F t2 = -t1;
    const auto [g_h, g_threshold, g_by, g_std] = fire_back(g_s + t1 * of_output, g_v, g_m, fired, f, xi);
    const F t3 = g_h * gain;
    const F t4 = t2 * of_input + t3;
    g_states[0] = g_h * decay;
    g_states[1] = g_p * (1.0f - rate) + t3;
    g_inputs[0] = t4 * scale;
    g_constants[0] = g_h * v;
    g_constants[1] = g_h * (t0 + p);
    g_constants[2] = g_h;
    g_constants[3] = g_threshold;
    g_constants[4] = g_by;
    g_constants[5] = g_std;
    g_constants[6] = g_p * (of_output * spike_of(fired, f) - of_input * t0) + -(g_p * p);
    g_constants[7] = t1 * spike_of(fired, f);
    g_constants[8] = t2 * t0;
    g_constants[9] = t4 * x;
    g_constants[10] = t4;
  }
};

}  // namespace tgo
