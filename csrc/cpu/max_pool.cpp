#include "max_pool.h"

#include <torch/csrc/stable/ops.h>

#include <cstring>

#include "kernels.h"
#include "walk.h"

namespace tgo::cpu {
namespace {

constexpr int64_t kGrain = 32 * 1024;  // elements that are worth a thread

struct Planes : Pool {
  Storage storage;
  int64_t count;

  Planes(const Tensor& x, const Tensor& y, int64_t inner, const std::vector<int64_t>& window)
      : storage(storage_of(x)) {
    STD_TORCH_CHECK(x.dim() >= 2 && y.dim() == x.dim() && window.size() == 8 && inner > 0, "max_pool takes planes");
    STD_TORCH_CHECK(x.scalar_type() == y.scalar_type(), "max_pool takes one dtype");
    this->inner = inner;
    for (int d = 0; d < 2; ++d) {
      size[d] = x.size(x.dim() - 2 + d);
      outputs[d] = y.size(y.dim() - 2 + d);
      this->window[d] = window[d];
      stride[d] = window[2 + d];
      padding[d] = window[4 + d];
      dilation[d] = window[6 + d];
      STD_TORCH_CHECK(this->window[d] > 0 && stride[d] > 0 && padding[d] >= 0 && dilation[d] > 0, "max_pool's window");
    }
    count = elements() ? x.numel() / elements() : 0;
    STD_TORCH_CHECK(count * elements() == x.numel() && count * row() * outputs[0] == y.numel(),
                    "max_pool's planes must be those of its outputs");
  }

  int64_t elements() const { return size[0] * size[1] * inner; }
  bool quads() const {
    return inner == 1 && window[0] == 2 && window[1] == 2 && stride[0] == 2 && stride[1] == 2 && !padding[0] &&
           !padding[1] && dilation[0] == 1 && dilation[1] == 1 && size[0] / 2 == outputs[0] &&
           size[1] / 2 == outputs[1];
  }
  int64_t row() const { return outputs[1] * inner; }
  int64_t bytes() const { return storage == Storage::kFloat ? 4 : 2; }

  template <class F>
  void for_each(const F& f) const {
    torch::stable::parallel_for(0, count, std::max<int64_t>(1, kGrain / elements()), [&](int64_t begin, int64_t end) {
      std::vector<float> values(row());
      std::vector<int32_t> winner(row());
      for (int64_t k = begin; k < end; ++k) f(k, values.data(), winner.data());
    });
  }
};

template <class S>
void narrow(const float* from, int64_t count, S* to) {
  for (int64_t i = 0; i < count; ++i) to[i].bits = uint16_t(narrowed<S>(from[i]));
}

template <class S>
void widen(const S* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = widened<S, float>(from[i].bits);
}

void store(Storage storage, const float* from, int64_t count, char* to) {
  switch (storage) {
    case Storage::kFloat: std::memcpy(to, from, count * sizeof(float)); break;
    case Storage::kHalf: narrow(from, count, reinterpret_cast<Half*>(to)); break;
    case Storage::kBFloat16: narrow(from, count, reinterpret_cast<BFloat16*>(to)); break;
  }
}

void load(Storage storage, const char* from, int64_t count, float* to) {
  switch (storage) {
    case Storage::kFloat: std::memcpy(to, from, count * sizeof(float)); break;
    case Storage::kHalf: widen(reinterpret_cast<const Half*>(from), count, to); break;
    case Storage::kBFloat16: widen(reinterpret_cast<const BFloat16*>(from), count, to); break;
  }
}

}  // namespace

void max_pool(const Tensor& x, Tensor y, int64_t inner, const std::vector<int64_t>& window) {
  const Planes p(x, y, inner, window);
  const auto* const from = static_cast<const char*>(x.const_data_ptr());
  auto* const to = static_cast<char*>(y.mutable_data_ptr());
  p.for_each([&](int64_t k, float* best, int32_t* winner) {
    if (p.quads())
      return best_kernels().pool_quads(p, p.storage, from + k * p.elements() * p.bytes(),
                                       to + k * p.outputs[0] * p.row() * p.bytes(), nullptr);
    for (int64_t o = 0; o < p.outputs[0]; ++o) {
      best_kernels().pool_winners(p, p.storage, from + k * p.elements() * p.bytes(), o, best, winner);
      store(p.storage, best, p.row(), to + (k * p.outputs[0] + o) * p.row() * p.bytes());
    }
  });
}

void max_pool_bwd(const Tensor& x, const Tensor& grad, Tensor g_x, int64_t inner, const std::vector<int64_t>& window) {
  const Planes p(x, grad, inner, window);
  STD_TORCH_CHECK(g_x.numel() == x.numel() && g_x.scalar_type() == x.scalar_type(), "g_x must be as x");
  const auto* const from = static_cast<const char*>(x.const_data_ptr());
  const auto* const grads = static_cast<const char*>(grad.const_data_ptr());
  auto* const to = static_cast<char*>(g_x.mutable_data_ptr());
  p.for_each([&](int64_t k, float* values, int32_t* winner) {
    const int64_t plane = k * p.elements() * p.bytes();
    if (p.quads()) {
      if (p.size[0] % 2 || p.size[1] % 2) std::memset(to + plane, 0, p.elements() * p.bytes());
      const char* const row = grads + k * p.outputs[0] * p.row() * p.bytes();
      return best_kernels().pool_quads(p, p.storage, from + plane, const_cast<char*>(row), to + plane);
    }
    std::vector<float> narrow_sums(p.storage == Storage::kFloat ? 0 : p.elements());
    float* const sums = narrow_sums.empty() ? reinterpret_cast<float*>(to + plane) : narrow_sums.data();
    if (narrow_sums.empty()) std::memset(sums, 0, p.elements() * sizeof(float));
    for (int64_t o = 0; o < p.outputs[0]; ++o) {
      best_kernels().pool_winners(p, p.storage, from + plane, o, values, winner);
      load(p.storage, grads + (k * p.outputs[0] + o) * p.row() * p.bytes(), p.row(), values);
      best_kernels().pool_back(p, o, values, winner, sums);
    }
    if (!narrow_sums.empty()) store(p.storage, sums, p.elements(), to + plane);
  });
}

}  // namespace tgo::cpu
