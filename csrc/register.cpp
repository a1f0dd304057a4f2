// The operators of tgo_kernels/ops.py for CPU tensors. Their schemas are defined there.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>

#include "cpu/lif.h"

namespace {

using tgo::Layout;
using tgo::cpu::RowIO;
using tgo::cpu::Storage;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

bool same_layout(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.size(d) != 1 && a.stride(d) != b.stride(d)) return false;
  return true;
}

Tensor copy_like(const Tensor& layout, const Tensor& values) {
  Tensor copy = torch::stable::empty_like(layout);
  torch::stable::copy_(copy, values);
  return copy;
}

// `values` as they are where they lie like `layout`, a copy that does otherwise.
Tensor matched(const Tensor& values, const Tensor& layout) {
  return same_layout(values, layout) ? values : copy_like(layout, values);
}

// x as it is where it is dense, a dense copy otherwise.
Tensor dense(const Tensor& x) { return tgo::layout_of(x).steps ? x : copy_like(x, x); }

Tensor scalar(const Tensor& like, ScalarType type) { return torch::stable::new_empty(like, {}, type); }

// An uninitialised fp32 tensor with the shape and order of one time step of x.
Tensor empty_state(const Tensor& x) {
  namespace detail = torch::stable::detail;
  std::array<StableIValue, 6> stack{detail::from(torch::stable::select(x, 0, 0)),
                                    detail::from(std::optional(ScalarType::Float)),
                                    detail::from(std::nullopt), detail::from(std::nullopt),
                                    detail::from(std::nullopt), detail::from(std::nullopt)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::empty_like", "", stack.data(), TORCH_ABI_VERSION));
  return detail::to<Tensor>(stack[0]);
}

Storage storage_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return Storage::kFloat;
    case ScalarType::Half: return Storage::kHalf;
    case ScalarType::BFloat16: return Storage::kBFloat16;
    default: STD_TORCH_CHECK(false, "x must be float32, float16 or bfloat16");
  }
}

#define TGO_SCALAR_PARAMETERS                                                                                    \
  double decay, double gain, double leak_bias, double v_threshold, double v_rest, bool soft_reset,               \
      double noise_std, bool noise_in_membrane, double guard_margin, int64_t curve, double curve_height,         \
      double curve_scale, bool surrogate_at_h, bool detach_reset
#define TGO_SCALARS                                                                                              \
  decay, gain, leak_bias, v_threshold, v_rest, soft_reset, noise_std, noise_in_membrane, guard_margin, curve,    \
      curve_height, curve_scale, surrogate_at_h, detach_reset

struct Call {
  Tensor x;
  Layout layout;
  tgo::cpu::Options options;
  const tgo::cpu::Kernels& kernels = tgo::cpu::best_kernels();

  Call(const Tensor& any_x, const OptionalTensor& v_init, const OptionalTensor& seed, int64_t noise_step,
       int64_t checkpoint_every, TGO_SCALAR_PARAMETERS)
      : x(dense(any_x)), layout(tgo::layout_of(x)) {
    STD_TORCH_CHECK(!v_init || v_init->numel() == layout.neurons, "v_init must have the shape of x without time");
    STD_TORCH_CHECK(noise_step >= 0, "noise_step must be >= 0, got ", noise_step);
    STD_TORCH_CHECK(noise_std == 0 || seed, "noise_std > 0 needs a seed");
    STD_TORCH_CHECK(0 <= curve && curve < tgo::kCurves, "unknown surrogate curve ", curve);
    STD_TORCH_CHECK(0 <= checkpoint_every && checkpoint_every <= tgo::cpu::kMaxChunk,
                    "checkpoint_every must be 0 .. ", tgo::cpu::kMaxChunk, ", got ", checkpoint_every);
    options = {{float(decay), float(gain), float(leak_bias), float(v_threshold), float(v_rest), float(noise_std),
                float(guard_margin), float(curve_height), float(curve_scale), soft_reset, noise_in_membrane,
                surrogate_at_h, detach_reset},
               noise_std != 0,
               tgo::Curve(curve),
               noise_std == 0 ? 0 : uint64_t(*seed->const_data_ptr<int64_t>()),
               noise_step,
               checkpoint_every};
  }

  // Inputs are only read: const_data_ptr leaves copy-on-write tensors as they are.
  RowIO input(const Tensor& t) const {
    return RowIO(const_cast<void*>(t.const_data_ptr()), storage_of(t), layout, kernels);
  }
  RowIO output(const Tensor& t) const { return RowIO(t.mutable_data_ptr(), storage_of(t), layout, kernels, true); }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lif_fwd(Tensor any_x, OptionalTensor v_init,
                                                                   OptionalTensor seed, int64_t noise_step,
                                                                   int64_t checkpoint_every,
                                                                   TGO_SCALAR_PARAMETERS) {
  const Call call(any_x, v_init, seed, noise_step, checkpoint_every, TGO_SCALARS);
  const auto& [x, layout, options, kernels] = call;
  Tensor spikes = torch::stable::empty_like(x), v = empty_state(x);
  Tensor penalty = scalar(x, ScalarType::Float);
  Tensor neighbors = scalar(x, ScalarType::Long), fired = scalar(x, ScalarType::Long);
  const int64_t saved = checkpoint_every ? (layout.steps - 1) / checkpoint_every : 0;
  Tensor checkpoints = torch::stable::new_empty(x, {saved * layout.neurons}, ScalarType::Float);

  float* state = v.mutable_data_ptr<float>();
  if (v_init)
    torch::stable::copy_(v, *v_init);
  else
    std::fill(state, state + layout.neurons, options.neuron.v_rest);
  tgo::cpu::Totals totals;
  if (layout.neurons)
    totals = tgo::cpu::forward(options, layout, kernels, call.input(x), call.output(spikes), state,
                               saved ? checkpoints.mutable_data_ptr<float>() : nullptr);
  *penalty.mutable_data_ptr<float>() = float(layout.neurons ? totals.penalty / double(x.numel()) : 0.);
  *neighbors.mutable_data_ptr<int64_t>() = totals.neighbors;
  *fired.mutable_data_ptr<int64_t>() = totals.fired;
  return {spikes, v, penalty, neighbors, fired, checkpoints};
}

std::tuple<Tensor, Tensor> lif_bwd(Tensor any_x, OptionalTensor v_init, OptionalTensor seed, int64_t noise_step,
                                   int64_t checkpoint_every, Tensor checkpoints, OptionalTensor g_spikes,
                                   OptionalTensor g_v_final, OptionalTensor g_penalty, bool need_g_v_init,
                                   TGO_SCALAR_PARAMETERS) {
  const Call call(any_x, v_init, seed, noise_step, checkpoint_every, TGO_SCALARS);
  const auto& [x, layout, options, kernels] = call;
  STD_TORCH_CHECK(checkpoint_every > 0, "checkpoint_every must be > 0");
  STD_TORCH_CHECK(checkpoints.numel() == (layout.steps - 1) / checkpoint_every * layout.neurons,
                  "checkpoints must be those of the forward");
  STD_TORCH_CHECK(!g_spikes || g_spikes->numel() == x.numel(), "g_spikes must have the shape of x");
  Tensor g_x = torch::stable::empty_like(x);
  Tensor g_v = g_v_final || need_g_v_init ? empty_state(x) : torch::stable::new_empty(x, {0}, ScalarType::Float);
  if (g_v_final)
    torch::stable::copy_(g_v, *g_v_final);
  else
    torch::stable::zero_(g_v);
  if (layout.neurons) {
    const float k = g_penalty ? float(double(*g_penalty->const_data_ptr<float>()) / double(x.numel())) : 0.f;
    const Tensor g_s = g_spikes ? matched(*g_spikes, x) : x;
    const Tensor start = v_init ? matched(*v_init, empty_state(x)) : checkpoints;
    const float* saved = checkpoints.numel() ? checkpoints.const_data_ptr<float>() : nullptr;
    tgo::cpu::backward(options, layout, kernels, call.input(x),
                       g_spikes ? call.input(g_s) : RowIO(nullptr, Storage::kFloat, layout, kernels), call.output(g_x),
                       v_init ? start.const_data_ptr<float>() : nullptr, saved, k,
                       g_v.numel() ? g_v.mutable_data_ptr<float>() : nullptr);
  }
  if (!need_g_v_init) g_v = torch::stable::new_empty(x, {0}, ScalarType::Float);
  return {g_x, g_v};
}

std::string cpu_kernels() { return tgo::cpu::best_kernels().name; }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tgo_kernels, CompositeExplicitAutograd, m) { m.impl("cpu_kernels", TORCH_BOX(&cpu_kernels)); }

STABLE_TORCH_LIBRARY_IMPL(tgo_kernels, CPU, m) {
  m.impl("lif_fwd", TORCH_BOX(&lif_fwd));
  m.impl("lif_bwd", TORCH_BOX(&lif_bwd));
}
