// The operators of tgo_kernels/ops.py on an Engine: tensors are made for the results, and it is told of all as memory.
//
// An Engine is made for x. It has taken(x), x as it can take it; check(checkpoint_every); forward(call, a, sums) and
// backward(call, a).
#pragma once

#include "call.h"

namespace tgo {

template <class Engine>
ForwardResult scan_fwd(Tensor any_x, OptionalTensor v_init, OptionalTensors more, OptionalTensor table,
                       OptionalTensor seed, int64_t noise_step, int64_t checkpoint_every, Settings settings) {
  Engine engine(any_x);
  Engine::check(checkpoint_every);
  const Call call(Engine::taken(any_x), v_init, more, table, seed, noise_step, checkpoint_every, settings);
  const Tensor& x = call.x;
  Tensor spikes = empty_as(x), penalty = scalar(x, ScalarType::Float);
  Tensor neighbors = scalar(x, ScalarType::Long), fired = scalar(x, ScalarType::Long);
  const Tensors finals = call.new_states();
  Tensors further(finals.begin() + 1, finals.end());
  if (call.has_membrane()) further.push_back(empty_as(x));
  Tensor checkpoints = row(x, call.saved() * finals.size() * call.layout.neurons);
  if (call.layout.neurons) {
    Forward a{call.arguments};
    a.spikes = spikes.mutable_data_ptr();
    if (call.has_membrane()) a.membrane = further.back().mutable_data_ptr();
    for (size_t k = 0; k < finals.size(); ++k) a.finals[k] = finals[k].mutable_data_ptr<float>();
    if (call.saved()) a.checkpoints = checkpoints.mutable_data_ptr<float>();
    engine.forward(call, a,
                   Sums{penalty.mutable_data_ptr<float>(), neighbors.mutable_data_ptr<int64_t>(),
                        fired.mutable_data_ptr<int64_t>(), double(x.numel())});
  } else {
    for (Tensor* sum : {&penalty, &neighbors, &fired}) torch::stable::zero_(*sum);
  }
  return {spikes, finals[0], penalty, neighbors, fired, checkpoints, further};
}

template <class Engine>
BackwardResult scan_bwd(Tensor any_x, OptionalTensor v_init, OptionalTensors more, OptionalTensor table,
                        OptionalTensor seed, int64_t noise_step, int64_t checkpoint_every, Tensor checkpoints,
                        OptionalTensor g_spikes, OptionalTensor g_v_final, OptionalTensors any_further,
                        OptionalTensor g_penalty, bool need_g_init, bool need_g_table, Settings settings) {
  Engine engine(any_x);
  Engine::check(checkpoint_every);
  const Call call(Engine::taken(any_x), v_init, more, table, seed, noise_step, checkpoint_every, settings);
  const Tensor& x = call.x;
  const Shape shape = call.shape();
  const Tensors g_further = any_further.value_or(Tensors());
  call.check_backward(checkpoints, g_spikes, g_further);
  Tensors g_inputs, g_states, kept;
  for (int k = 0; k < shape.inputs; ++k) g_inputs.push_back(empty_as(x));
  if (need_g_init) g_states = call.new_states();
  Tensor g_table = table && need_g_table ? empty_as(*table) : row(x, 0);
  if (table && need_g_table && call.arguments.columns > call.layout.neurons)
    torch::stable::zero_(g_table);  // of columns that are of no neuron
  if (call.layout.neurons) {
    Backward a{call.arguments};
    const auto matching = [&](const Tensor& g, const Tensor& like) {
      kept.push_back(matched(g, like));
      return kept.back().const_data_ptr();
    };
    if (g_spikes) a.g_spikes = matching(*g_spikes, x);
    if (call.has_membrane() && g_further.back().numel()) a.g_membrane = matching(g_further.back(), x);
    for (int k = 0; k < shape.states; ++k) {
      const OptionalTensor g = k ? OptionalTensor(g_further[k - 1]) : g_v_final;
      if (!g || !g->numel()) continue;
      a.g_finals[k] = static_cast<const float*>(matching(*g, need_g_init ? g_states[k] : empty_state(x, call.layout)));
    }
    if (call.saved()) a.checkpoints = checkpoints.const_data_ptr<float>();
    if (g_penalty) a.g_penalty = g_penalty->const_data_ptr<float>();
    for (int k = 0; k < shape.inputs; ++k) a.g_inputs[k] = g_inputs[k].mutable_data_ptr();
    for (size_t k = 0; k < g_states.size(); ++k) a.g_states[k] = g_states[k].mutable_data_ptr<float>();
    float* own = g_table.mutable_data_ptr<float>();
    for (int k = 0; k < shape.constants; ++k) {
      if (!need_g_table || !a.own[k]) continue;
      a.g_own[k] = own;
      own += call.rows_of(k) * a.columns;
    }
    a.share = 1 / double(x.numel());
    engine.backward(call, a);
  }
  const Tensor g_v_init = need_g_init ? g_states[0] : row(x, 0);
  Tensors g_more(g_inputs.begin() + 1, g_inputs.end());
  if (need_g_init) g_more.insert(g_more.end(), g_states.begin() + 1, g_states.end());
  return {g_inputs[0], g_v_init, g_table, g_more};
}

}  // namespace tgo
