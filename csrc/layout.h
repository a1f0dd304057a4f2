// Where a neuron lies in memory, and which neuron it is, for any dense layout of x [T, *].
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <vector>

namespace tgo {

// Neurons are numbered m = 0..N-1 in the order of memory. x[t] of neuron m lies at
//   (m / inner) * inner * T + t * inner + m % inner
// where inner = stride of time: N where time is outermost, less where it lies further in (a transposed batch).
// The noise knows a neuron by its logical index, its row-major position in [*].
struct Layout {
  struct Dim {
    int64_t size, logical_stride;
  };
  int64_t steps, neurons, inner;
  std::vector<Dim> dims;  // of [*], outermost in memory first, merged where they lie alike in both orders

  int64_t offset(int64_t m, int64_t t) const { return (m / inner) * inner * steps + t * inner + m % inner; }

  // Whether the order of memory is the logical one.
  bool logical_order() const { return dims.empty() || (dims.size() == 1 && dims[0].logical_stride == 1); }

  // How far behind each neuron of even logical index the next one lies in memory; 0 where that is not the same for all.
  int64_t pair_distance() const {
    int64_t distance = 1;
    for (size_t d = dims.size(); d-- > 0; distance *= dims[d].size)
      if (dims[d].logical_stride == 1) return dims[d].size % 2 ? 0 : distance;
    return 0;
  }

  // Logical indices of the neurons m .. m + len - 1.
  void logical(int64_t m, int64_t len, int64_t* index) const {
    const Dim last = dims.back();
    for (int64_t j = 0; j < len;) {
      int64_t rest = (m + j) / last.size, first = 0;
      const int64_t start = (m + j) % last.size, run = std::min(last.size - start, len - j);
      for (size_t d = dims.size(); d-- > 1;) {
        const Dim& dim = dims[d - 1];
        first += rest % dim.size * dim.logical_stride;
        rest /= dim.size;
      }
      first += start * last.logical_stride;
      for (int64_t i = 0; i < run; ++i, first += last.logical_stride) index[j + i] = first;
      j += run;
    }
  }
};

// The layout of x, or steps = 0 where x is not dense (holes, overlaps).
inline Layout layout_of(const torch::stable::Tensor& x) {
  if (x.numel() == 0) return {x.size(0), 0, 1, {}};
  const auto sizes = x.sizes(), strides = x.strides();
  const int64_t dim = x.dim();
  std::vector<int64_t> logical(dim, 1), order;
  for (int64_t d = dim - 1; d > 0; --d) logical[d - 1] = logical[d] * sizes[d];
  for (int64_t d = 0; d < dim; ++d)
    if (sizes[d] != 1) order.push_back(d);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return strides[a] > strides[b]; });

  Layout layout{sizes[0], x.numel() / sizes[0], 0, {}};
  int64_t expected = x.numel();
  bool dense = true;
  for (const int64_t d : order) {
    expected /= sizes[d];
    dense = dense && strides[d] == expected;
    if (d == 0) continue;
    auto& dims = layout.dims;
    if (!dims.empty() && dims.back().logical_stride == sizes[d] * logical[d])
      dims.back() = {dims.back().size * sizes[d], logical[d]};
    else
      dims.push_back({sizes[d], logical[d]});
  }
  layout.inner = sizes[0] == 1 ? layout.neurons : strides[0];
  if (!dense) layout.steps = 0;
  return layout;
}

}  // namespace tgo
