// The arguments of the operators of tgo_kernels/ops.py, and the tensors that every engine makes of them.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <optional>
#include <tuple>

#include "layout.h"
#include "lif_step.h"
#include "storage.h"
#include "surrogate.h"

namespace tgo {
// Hidden, as torch's own types are that it holds.
#pragma GCC visibility push(hidden)

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

struct Options {
  Neuron<> neuron;
  const float* table;  // [3, columns]: decay, gain and v_threshold of neuron m in column m % columns; or null
  int64_t columns;     // N without a table
  Noise noise;  // with a table, any or none
  Curve curve;
  const int64_t* seed;  // where x is
  int64_t noise_step;
  int64_t checkpoint_every;  // 0 saves none (forward)

  bool noisy() const { return noise != Noise::kNone; }
};

inline bool same_layout(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.size(d) != 1 && a.stride(d) != b.stride(d)) return false;
  return true;
}

inline Tensor copy_like(const Tensor& layout, const Tensor& values) {
  Tensor copy = torch::stable::empty_like(layout);
  torch::stable::copy_(copy, values);
  return copy;
}

// `values` as they are where they lie like `layout`, a copy that does otherwise.
inline Tensor matched(const Tensor& values, const Tensor& layout) {
  return same_layout(values, layout) ? values : copy_like(layout, values);
}

// An uninitialised tensor where `like` is. Not by torch's dispatcher, which takes longer than a small layer does.
inline Tensor empty(const Tensor& like, ScalarType type, Sizes sizes, Sizes strides) {
  namespace detail = torch::stable::detail;
  int32_t device;
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(sizes.size(), sizes.data(), strides.data(),
                                                  detail::to<int32_t>(detail::from(type)), device,
                                                  like.get_device_index(), &made));
  return Tensor(made);
}

inline Tensor empty_as(const Tensor& dense) {
  return empty(dense, dense.scalar_type(), dense.sizes(), dense.strides());
}

inline Tensor scalar(const Tensor& like, ScalarType type) { return empty(like, type, {}, {}); }

inline Tensor row(const Tensor& like, int64_t size, ScalarType type = ScalarType::Float) {
  return empty(like, type, {size}, {1});
}

// An uninitialised fp32 tensor with the shape and order of one time step of x.
inline Tensor empty_state(const Tensor& x, const Layout& layout) {
  if (layout.inner == layout.neurons)
    return empty(x, ScalarType::Float, x.sizes().slice(1), x.strides().slice(1));
  namespace detail = torch::stable::detail;
  std::array<StableIValue, 6> stack{detail::from(torch::stable::select(x, 0, 0)),
                                    detail::from(std::optional(ScalarType::Float)),
                                    detail::from(std::nullopt), detail::from(std::nullopt),
                                    detail::from(std::nullopt), detail::from(std::nullopt)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::empty_like", "", stack.data(), TORCH_ABI_VERSION));
  return detail::to<Tensor>(stack[0]);
}

inline Storage storage_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return Storage::kFloat;
    case ScalarType::Half: return Storage::kHalf;
    case ScalarType::BFloat16: return Storage::kBFloat16;
    default: STD_TORCH_CHECK(false, "x must be float32, float16 or bfloat16");
  }
}

// Neuron.constants of the Python side: one list, since torch takes 0.2 microseconds for each argument.
using ConstantList = std::vector<double>;

struct Call {
  Tensor x;
  Layout layout;
  Options options;

  Call(const Tensor& any_x, const OptionalTensor& v_init, const OptionalTensor& table, const OptionalTensor& seed,
       int64_t noise_step, int64_t checkpoint_every, const ConstantList& constants)
      : x(any_x), layout(layout_of(x)) {
    if (!layout.steps) {  // not dense
      x = copy_like(x, x);
      layout = layout_of(x);
    }
    std::array<double, 14> numbers;
    STD_TORCH_CHECK(constants.size() == numbers.size(), "expected ", numbers.size(), " constants, got ",
                    constants.size());
    std::copy(constants.begin(), constants.end(), numbers.begin());
    const auto [decay, gain, leak_bias, v_threshold, v_rest, soft_reset, noise_std, noise_in_membrane, guard_margin,
                curve, curve_height, curve_scale, surrogate_at_h, detach_reset] = numbers;
    STD_TORCH_CHECK(!v_init || v_init->numel() == layout.neurons, "v_init must have the shape of x without time");
    STD_TORCH_CHECK(noise_step >= 0, "noise_step must be >= 0, got ", noise_step);
    STD_TORCH_CHECK(noise_std == 0 || seed, "noise_std > 0 needs a seed");
    STD_TORCH_CHECK(0 <= curve && curve < int(kCurves), "unknown surrogate curve ", curve);
    STD_TORCH_CHECK(!table || (table->dim() == 2 && table->size(0) == 3 && table->is_contiguous() &&
                               table->scalar_type() == ScalarType::Float),
                    "table must be [3, D] in fp32, contiguous");
    STD_TORCH_CHECK(!table || table->size(1) > 0 || !layout.neurons, "table must have columns");
    const bool usual = noise_in_membrane != 0 && soft_reset == 0 && surrogate_at_h == 0 && detach_reset == 0;
    options = {{{float(v_rest), float(noise_std), float(guard_margin), float(curve_height), float(curve_scale),
                 soft_reset != 0, noise_in_membrane != 0, surrogate_at_h != 0, detach_reset != 0},
                float(decay),
                float(gain),
                float(leak_bias),
                float(v_threshold)},
               data(table),
               table ? table->size(1) : layout.neurons,
               noise_std == 0 ? Noise::kNone : usual && !table ? Noise::kUsual : Noise::kAny,
               Curve(int(curve)),
               noise_std == 0 ? nullptr : seed->const_data_ptr<int64_t>(),
               noise_step,
               checkpoint_every};
  }

  static const float* data(const OptionalTensor& t) { return t ? t->const_data_ptr<float>() : nullptr; }

  // How many states the forward saves.
  int64_t saved() const { return options.checkpoint_every ? (layout.steps - 1) / options.checkpoint_every : 0; }

  void check_backward(const Tensor& checkpoints, const OptionalTensor& g_spikes) const {
    STD_TORCH_CHECK(options.checkpoint_every > 0, "checkpoint_every must be > 0");
    STD_TORCH_CHECK(checkpoints.numel() == saved() * layout.neurons, "checkpoints must be those of the forward");
    STD_TORCH_CHECK(!g_spikes || g_spikes->numel() == x.numel(), "g_spikes must have the shape of x");
  }
};

using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using BackwardResult = std::tuple<Tensor, Tensor, Tensor>;

#pragma GCC visibility pop
}  // namespace tgo
