// The CUDA engine on a Device, which has forward() and backward() for the arguments of a kernel.
#pragma once

#include "../scan.h"
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

template <class Device>
struct __attribute__((visibility("hidden"))) Engine {
  Device device;

  explicit Engine(const Tensor& x) : device(x) {}

  static Tensor taken(const Tensor& x) {
    return x.dim() > kDims + 1 && layout_of(x).dims.size() > kDims ? torch::stable::contiguous(x) : x;
  }
  static void check(int64_t checkpoint_every) {
    STD_TORCH_CHECK(checkpoint_every == 0 || checkpoint_every == kCheckpointEvery, "checkpoint_every must be 0 or ",
                    kCheckpointEvery, ", got ", checkpoint_every);
  }

  void forward(const Call& call, Forward a, const Sums& sums) {
    a.place = place_of(call.layout);
    Tensor partials = row(call.x, kMaxBlocks * int64_t(sizeof(BlockTotals) / sizeof(int64_t)), ScalarType::Long);
    device.forward(form_of(call, !a.states[0], a, {a.spikes, a.membrane, a.finals[0]}), a,
                   static_cast<BlockTotals*>(partials.mutable_data_ptr()), sums);
  }
  void backward(const Call& call, Backward a) {
    a.place = place_of(call.layout);
    const bool rest = !a.states[0] && !a.g_finals[0] && !a.g_states[0];
    device.backward(form_of(call, rest, a, {a.checkpoints, a.g_spikes, a.g_membrane, a.g_finals[0], a.g_finals[1],
                                            a.g_finals[2], a.g_inputs[0]}),
                    a);
  }

  // `rest`: no state enters or leaves. `pointers`: to all but Arguments', null where there is no such tensor.
  static Form form_of(const Call& call, bool rest, const Arguments& a, std::initializer_list<const void*> pointers) {
    const Any& f = a.firing;
    const Layout& layout = call.layout;
    const bool rare = f.reset == Reset::kSubtracted || f.membrane != Membrane::kNone || f.strict || f.below ||
                      f.grid != 0.f || a.lengths || a.timed;
    const bool usual =
        f.noise == Noise::kMembrane && f.reset == Reset::kHard && !f.surrogate_at_h && !f.detach_reset;
    STD_TORCH_CHECK(!call.of_user, "CUDA's kernels know no neurons of users");
    const bool lif = call.neuron == 0, own = call.rows > 0;
    const Kind kind = rare || call.neuron >= kWithFirst ? Kind::kAny
                      : lif && !call.noisy()            ? Kind::kQuiet
                      : lif && usual                    ? Kind::kUsual
                                                        : Kind::kFirst;
    const bool begins = !call.noisy() || a.noise_step % kSpan == 0;
    const bool four = layout.steps == kSpan && begins && rest && lif && !rare && !own;
    Form form{int(call.neuron), storage_of(call.x), kind, true, four, own, f.curve};
    const bool plain = simple(call.shape().states, call.shape().inputs);
    const int count = widest(plain, kind, own, form.storage == Storage::kFloat ? 4 : 2);
    form.wide = layout.inner == layout.neurons && (layout.logical_order() || !call.noisy()) &&
                layout.neurons % count == 0 && a.columns % count == 0 && aligned(pointers) && aligned(a.inputs) &&
                aligned(a.states) && aligned(a.own, count * sizeof(float)) && aligned(std::initializer_list{a.lengths});
    return form;
  }

  template <class Pointers>
  static bool aligned(const Pointers& pointers, size_t bytes = 16) {
    return std::all_of(std::begin(pointers), std::end(pointers),
                       [&](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; });
  }
};

}  // namespace tgo::cuda
