// The arguments of the operators of tgo_kernels/ops.py, and the tensors that every engine makes of them.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <optional>
#include <tuple>

#include "arguments.h"
#include "layout.h"
#include "own.h"
#include "storage.h"

namespace tgo {
// Hidden, as torch's own types are that it holds.
#pragma GCC visibility push(hidden)

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

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

using Tensors = std::vector<Tensor>;
using OptionalTensors = std::optional<Tensors>;  // none are no list: torch takes 0.3 us to hand one over
using Settings = std::vector<double>;  // of the Python side (tgo_kernels/ops.py): torch takes 0.2 us for each argument

struct Call {
  Tensor x;
  Layout layout;
  int64_t neuron;            // its place in Neurons, or the number of a user's own
  const OwnNeuron* of_user = nullptr;
  int64_t checkpoint_every;  // 0 saves none (forward)
  int64_t rows = 0;          // of the table
  Tensors inputs;            // beside x
  Tensors states;            // before the first step, in the order of x's memory; none: all at rest
  OptionalTensor lengths;    // int32, in the order of x's memory
  Arguments arguments{};

  Call(const Tensor& any_x, const OptionalTensor& v_init, const OptionalTensors& more, const OptionalTensor& table,
       const OptionalTensor& seed, int64_t noise_step, int64_t checkpoint_every, const Settings& settings)
      : x(any_x), layout(layout_of(x)), checkpoint_every(checkpoint_every) {
    if (!layout.steps) {  // not dense
      x = copy_like(x, x);
      layout = layout_of(x);
    }
    constexpr size_t kFlags = 7;
    STD_TORCH_CHECK(settings.size() > kFlags, "expected more than ", kFlags, " settings, got ", settings.size());
    std::array<double, kFlags> flags;
    std::copy_n(settings.begin(), kFlags, flags.begin());
    const auto [number, own, switches, guard_margin, guard_grid, curve_height, curve_scale] = flags;
    const auto digit = [digits = uint32_t(switches)](int k) { return int(digits >> 4 * k & 15); };
    neuron = int64_t(number);
    set_shape();
    STD_TORCH_CHECK(digit(3) < int(kCurves), "unknown surrogate curve ", digit(3));
    const size_t expected = kFlags + shape().states + shape().constants;
    STD_TORCH_CHECK(settings.size() == expected, "expected ", expected, " settings, got ", settings.size());
    const double* rests = settings.data() + kFlags;
    std::copy_n(rests, shape().states, arguments.rests);
    std::copy_n(rests + shape().states, shape().constants, arguments.numbers);
    arguments.firing = {{float(rests[0]), float(guard_margin), float(curve_height), float(curve_scale), float(guard_grid),
                       0.f, Curve(digit(3))},
                      Noise(digit(1)),
                      Reset(digit(2)),
                      Membrane(digit(0)),
                      guard_margin > 0,
                      digit(5) != 0,
                      digit(4) != 0,
                      digit(6) != 0,
                      digit(7) != 0};
    arguments.columns = layout.neurons;
    set_table(table, uint32_t(own));
    STD_TORCH_CHECK(noise_step >= 0, "noise_step must be >= 0, got ", noise_step);
    STD_TORCH_CHECK(!noisy() || seed, "noise needs a seed");
    arguments.seed = noisy() ? seed->const_data_ptr<int64_t>() : nullptr;
    arguments.noise_step = noise_step;
    set_more(v_init, more.value_or(Tensors()));
    arguments.inputs[0] = x.const_data_ptr();
    for (size_t k = 0; k < inputs.size(); ++k) arguments.inputs[k + 1] = inputs[k].const_data_ptr();
    for (size_t k = 0; k < states.size(); ++k) arguments.states[k] = states[k].const_data_ptr<float>();
    if (lengths) arguments.lengths = lengths->const_data_ptr<int32_t>();
  }

  Shape shape() const { return of_user ? of_user->shape : Neurons::shapes[neuron]; }
  bool noisy() const { return arguments.firing.noise != Noise::kNone; }
  bool has_membrane() const { return arguments.firing.membrane != Membrane::kNone; }

  // Uninitialised ones, fp32, with the shape and order of one time step of x.
  Tensors new_states() const {
    Tensors made{empty_state(x, layout)};
    while (int(made.size()) < shape().states) made.push_back(empty_as(made[0]));
    return made;
  }

  // How many rows of the table are constant k's, if it is in there.
  int64_t rows_of(int k, uint32_t own = ~0u) const {
    return own >> k & 1 ? (arguments.timed >> k & 1 ? layout.steps : 1) : 0;
  }

  // How many times the forward saves the states: rows of [states, N].
  int64_t saved() const { return checkpoint_every ? (layout.steps - 1) / checkpoint_every : 0; }

  void check_backward(const Tensor& checkpoints, const OptionalTensor& g_spikes, const Tensors& g_further) const {
    STD_TORCH_CHECK(checkpoint_every > 0, "checkpoint_every must be > 0");
    STD_TORCH_CHECK(checkpoints.numel() == saved() * shape().states * layout.neurons,
                    "checkpoints must be those of the forward");
    STD_TORCH_CHECK(!g_spikes || g_spikes->numel() == x.numel(), "g_spikes must have the shape of x");
    const size_t states = shape().states - 1, all = states + has_membrane();
    STD_TORCH_CHECK(g_further.size() == all, "expected ", all, " gradients of further results, got ", g_further.size());
    for (size_t k = 0; k < all; ++k)
      STD_TORCH_CHECK(!g_further[k].numel() || g_further[k].numel() == (k < states ? layout.neurons : x.numel()),
                      "gradients must have the shapes of the results");
  }

 private:
  void set_shape() {
    if (0 <= neuron && neuron < Neurons::kCount) return;
    of_user = OwnNeurons::find(neuron);
    STD_TORCH_CHECK(of_user, "unknown neuron ", neuron, ": one of a user's own is known where it has been run before");
  }

  void set_table(const OptionalTensor& table, uint32_t own) {
    arguments.timed = own >> kMaxConstants & own;
    for (int k = 0; k < shape().constants; ++k) rows += rows_of(k, own);
    STD_TORCH_CHECK(bool(table) == (rows > 0), "a table is of the constants that neurons have of their own");
    if (!table) return;
    STD_TORCH_CHECK(table->dim() == 2 && table->size(0) == rows && table->is_contiguous() &&
                        table->scalar_type() == ScalarType::Float,
                    "table must be [", rows, ", D] in fp32, contiguous");
    STD_TORCH_CHECK(table->size(1) > 0 || !layout.neurons, "table must have columns");
    arguments.columns = table->size(1);
    const float* row = table->const_data_ptr<float>();
    for (int k = 0; k < shape().constants; row += rows_of(k++, own) * arguments.columns)
      if (own >> k & 1) arguments.own[k] = row;
  }

  // `more` has the inputs beside x, where v_init is given the states beside it, and last, where sequences end, lengths.
  void set_more(const OptionalTensor& v_init, const Tensors& more) {
    const Shape shape = this->shape();
    const size_t tensors = (shape.inputs - 1) + (v_init ? shape.states - 1 : 0);
    STD_TORCH_CHECK(more.size() == tensors || more.size() == tensors + 1, "expected ", tensors, " or ", tensors + 1,
                    " further tensors, got ", more.size());
    for (int k = 0; k < shape.inputs - 1; ++k) {
      STD_TORCH_CHECK(more[k].numel() == x.numel() && more[k].scalar_type() == x.scalar_type(),
                      "inputs must have the shape and type of x");
      inputs.push_back(matched(more[k], x));
    }
    if (!v_init && more.size() == tensors) return;
    const Tensor state = empty_state(x, layout);
    if (v_init) {
      states.push_back(*v_init);
      for (int k = 1; k < shape.states; ++k) states.push_back(more[shape.inputs - 2 + k]);
      for (Tensor& each : states) {
        STD_TORCH_CHECK(each.numel() == layout.neurons && each.scalar_type() == ScalarType::Float,
                        "states must be fp32, in the shape of x without time");
        each = matched(each, state);
      }
    }
    if (more.size() > tensors) {
      STD_TORCH_CHECK(more.back().numel() == layout.neurons && more.back().scalar_type() == ScalarType::Int,
                      "lengths must be int32, in the shape of x without time");
      Tensor like = empty(state, ScalarType::Int, state.sizes(), state.strides());
      lengths = matched(more.back(), like);
    }
  }
};

// Of the forward the last has the final states but the first, and, where it is an output, the membrane, as x lies. Of
// the backward it has dL/d(`more` of the forward), without lengths: of further states whether they were given or not.
using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensors>;
using BackwardResult = std::tuple<Tensor, Tensor, Tensor, Tensors>;

#pragma GCC visibility pop
}  // namespace tgo
