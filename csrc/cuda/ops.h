// The operators of tgo_kernels/ops.py on a Device, which has forward() and backward() for the arguments of lif.h.
#pragma once

#include "../call.h"
#include "dispatch.h"

namespace tgo::cuda {

// As many blocks as a grid has at the most; their threads stride over the neurons.
constexpr int64_t kMaxBlocks = 1 << 16;

inline int64_t blocks_for(int64_t neurons, int count) {
  return std::min(kMaxBlocks, (neurons + kThreads * count - 1) / (kThreads * count));
}

inline Place place_of(const Layout& layout) {
  Place place{layout.steps, layout.neurons, layout.inner, int(layout.dims.size()), {}, {}};
  for (int d = 0; d < place.dims; ++d) {
    place.size[d] = layout.dims[d].size;
    place.logical_stride[d] = layout.dims[d].logical_stride;
  }
  return place;
}

struct DeviceCall : Call {
  template <class... Arguments>
  explicit DeviceCall(const Arguments&... arguments) : Call(arguments...) {
    STD_TORCH_CHECK(options.checkpoint_every == 0 || options.checkpoint_every == kCheckpointEvery,
                    "checkpoint_every must be 0 or ", kCheckpointEvery, ", got ", options.checkpoint_every);
    if (layout.dims.size() > kDims) {
      x = torch::stable::contiguous(x);
      layout = layout_of(x);
    }
  }

  // `rest`: no state enters or leaves.
  Form form(bool rest, std::initializer_list<const void*> pointers) const {
    const bool in_order = layout.logical_order() || !options.noisy();
    const int count = options.table ? kWideOwn : storage_of(x) == Storage::kFloat ? kWide<float> : kWide<Half>;
    bool wide = layout.inner == layout.neurons && in_order;
    wide = wide && layout.neurons % count == 0 && options.columns % count == 0;
    for (const void* pointer : pointers) wide = wide && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
    const bool aligned = !options.noisy() || options.noise_step % kSpan == 0;
    const bool four = layout.steps == kSpan && aligned && rest;
    return {storage_of(x), wide, options.noise, four, options.table != nullptr, options.curve};
  }
};

template <class Device>
ForwardResult lif_fwd(Tensor any_x, OptionalTensor v_init, OptionalTensor table, OptionalTensor seed,
                      int64_t noise_step, int64_t checkpoint_every, ConstantList constants) {
  Device device(any_x);
  const DeviceCall call(any_x, v_init, table, seed, noise_step, checkpoint_every, constants);
  const auto& [x, layout, options] = static_cast<const Call&>(call);
  Tensor spikes = empty_as(x), v = empty_state(x, layout);
  Tensor penalty = scalar(x, ScalarType::Float);
  Tensor neighbors = scalar(x, ScalarType::Long), fired = scalar(x, ScalarType::Long);
  Tensor checkpoints = row(x, call.saved() * layout.neurons);
  if (layout.neurons) {
    if (v_init) v_init = matched(*v_init, v);
    const Forward a{options.neuron,
                    {options.table, options.columns},
                    place_of(layout),
                    noise_step,
                    options.seed,
                    x.const_data_ptr(),
                    call.data(v_init),
                    spikes.mutable_data_ptr(),
                    v.mutable_data_ptr<float>(),
                    call.saved() ? checkpoints.mutable_data_ptr<float>() : nullptr};
    Tensor partials = row(x, kMaxBlocks * int64_t(sizeof(BlockTotals) / sizeof(int64_t)), ScalarType::Long);
    device.forward(call.form(!v_init, {a.x, a.v_init, a.spikes, a.v_final, options.table}), a,
                   static_cast<BlockTotals*>(partials.mutable_data_ptr()),
                   Sums{penalty.mutable_data_ptr<float>(), neighbors.mutable_data_ptr<int64_t>(),
                        fired.mutable_data_ptr<int64_t>(), double(x.numel())});
  } else {
    for (Tensor* sum : {&penalty, &neighbors, &fired}) torch::stable::zero_(*sum);
  }
  return {spikes, v, penalty, neighbors, fired, checkpoints};
}

template <class Device>
BackwardResult lif_bwd(Tensor any_x, OptionalTensor v_init, OptionalTensor table, OptionalTensor seed,
                       int64_t noise_step, int64_t checkpoint_every, Tensor checkpoints, OptionalTensor g_spikes,
                       OptionalTensor g_v_final, OptionalTensor g_penalty, bool need_g_v_init, ConstantList constants) {
  Device device(any_x);
  const DeviceCall call(any_x, v_init, table, seed, noise_step, checkpoint_every, constants);
  const auto& [x, layout, options] = static_cast<const Call&>(call);
  call.check_backward(checkpoints, g_spikes);
  Tensor g_x = empty_as(x);
  Tensor g_v_init = need_g_v_init ? empty_state(x, layout) : row(x, 0);
  Tensor g_table = table ? empty_as(*table) : row(x, 0);
  if (layout.neurons) {
    if (g_spikes) g_spikes = matched(*g_spikes, x);
    if (v_init || g_v_final) {
      const Tensor state = need_g_v_init ? g_v_init : empty_state(x, layout);
      if (v_init) v_init = matched(*v_init, state);
      if (g_v_final) g_v_final = matched(*g_v_final, state);
    }
    const Backward a{options.neuron,
                     {options.table, options.columns},
                     place_of(layout),
                     noise_step,
                     options.seed,
                     x.const_data_ptr(),
                     g_spikes ? g_spikes->const_data_ptr() : nullptr,
                     call.data(v_init),
                     call.data(checkpoints),
                     call.data(g_v_final),
                     call.data(g_penalty),
                     g_x.mutable_data_ptr(),
                     need_g_v_init ? g_v_init.mutable_data_ptr<float>() : nullptr,
                     table ? g_table.mutable_data_ptr<float>() : nullptr,
                     1 / double(x.numel()),
                     options.curve};
    const bool rest = !v_init && !g_v_final && !need_g_v_init;
    device.backward(call.form(rest, {a.x, a.g_spikes, a.v_init, a.checkpoints, a.g_v_final, a.g_x, a.g_v_init,
                                     options.table, a.g_table}),
                    a);
  }
  if (table && !layout.neurons) torch::stable::zero_(g_table);
  return {g_x, g_v_init, g_table};
}

}  // namespace tgo::cuda
