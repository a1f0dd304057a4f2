// The operators of tgo_kernels/ops.py for CPU tensors. Their schemas are defined there.
#include <torch/csrc/stable/library.h>

#include <string>

#include "cpu/lif.h"

namespace {

using namespace tgo;
using cpu::RowIO;

struct CpuCall : Call {
  const cpu::Kernels& kernels = cpu::best_kernels();

  template <class... Arguments>
  explicit CpuCall(const Arguments&... arguments) : Call(arguments...) {
    STD_TORCH_CHECK(0 <= options.checkpoint_every && options.checkpoint_every <= cpu::kMaxChunk,
                    "checkpoint_every must be 0 .. ", cpu::kMaxChunk, ", got ", options.checkpoint_every);
  }

  // Inputs are only read: const_data_ptr leaves copy-on-write tensors as they are.
  RowIO input(const Tensor& t) const {
    return RowIO(const_cast<void*>(t.const_data_ptr()), storage_of(t), layout, kernels);
  }
  RowIO output(const Tensor& t) const { return RowIO(t.mutable_data_ptr(), storage_of(t), layout, kernels, true); }
};

ForwardResult lif_fwd(Tensor any_x, OptionalTensor v_init, OptionalTensor table, OptionalTensor seed,
                      int64_t noise_step, int64_t checkpoint_every, ConstantList constants) {
  const CpuCall call(any_x, v_init, table, seed, noise_step, checkpoint_every, constants);
  const auto& [x, layout, options] = static_cast<const Call&>(call);
  Tensor spikes = empty_as(x), v = empty_state(x, layout);
  Tensor penalty = scalar(x, ScalarType::Float);
  Tensor neighbors = scalar(x, ScalarType::Long), fired = scalar(x, ScalarType::Long);
  const int64_t saved = call.saved();
  Tensor checkpoints = row(x, saved * layout.neurons);

  cpu::Totals totals;
  if (layout.neurons) {
    if (v_init) v_init = matched(*v_init, v);
    totals = cpu::forward(options, layout, call.kernels, call.input(x), call.output(spikes),
                          call.data(v_init), v.mutable_data_ptr<float>(),
                          saved ? checkpoints.mutable_data_ptr<float>() : nullptr);
  }
  *penalty.mutable_data_ptr<float>() = float(layout.neurons ? totals.penalty / double(x.numel()) : 0.);
  *neighbors.mutable_data_ptr<int64_t>() = totals.neighbors;
  *fired.mutable_data_ptr<int64_t>() = totals.fired;
  return {spikes, v, penalty, neighbors, fired, checkpoints};
}

BackwardResult lif_bwd(Tensor any_x, OptionalTensor v_init, OptionalTensor table, OptionalTensor seed,
                       int64_t noise_step, int64_t checkpoint_every, Tensor checkpoints, OptionalTensor g_spikes,
                       OptionalTensor g_v_final, OptionalTensor g_penalty, bool need_g_v_init, ConstantList constants) {
  const CpuCall call(any_x, v_init, table, seed, noise_step, checkpoint_every, constants);
  const auto& [x, layout, options] = static_cast<const Call&>(call);
  call.check_backward(checkpoints, g_spikes);
  Tensor g_x = empty_as(x);
  const bool state = g_v_final || need_g_v_init;
  Tensor g_v = state ? empty_state(x, layout) : row(x, 0);
  Tensor g_table = table ? empty_as(*table) : row(x, 0);
  if (table) torch::stable::zero_(g_table);
  if (g_v_final)
    torch::stable::copy_(g_v, *g_v_final);
  else if (state)
    torch::stable::zero_(g_v);
  if (layout.neurons) {
    const float k = g_penalty ? float(double(*g_penalty->const_data_ptr<float>()) / double(x.numel())) : 0.f;
    const Tensor g_s = g_spikes ? matched(*g_spikes, x) : x;
    if (v_init) v_init = matched(*v_init, empty_state(x, layout));
    const float* saved = checkpoints.numel() ? checkpoints.const_data_ptr<float>() : nullptr;
    cpu::backward(options, layout, call.kernels, call.input(x),
                  g_spikes ? call.input(g_s) : RowIO(nullptr, Storage::kFloat, layout, call.kernels), call.output(g_x),
                  call.data(v_init), saved, k, state ? g_v.mutable_data_ptr<float>() : nullptr,
                  g_table.mutable_data_ptr<float>());
  }
  return {g_x, need_g_v_init ? g_v : row(x, 0), g_table};
}

std::string cpu_kernels() { return cpu::best_kernels().name; }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tgo_kernels, CompositeExplicitAutograd, m) { m.impl("cpu_kernels", TORCH_BOX(&cpu_kernels)); }

STABLE_TORCH_LIBRARY_IMPL(tgo_kernels, CPU, m) {
  m.impl("lif_fwd", TORCH_BOX(&lif_fwd));
  m.impl("lif_bwd", TORCH_BOX(&lif_bwd));
}
