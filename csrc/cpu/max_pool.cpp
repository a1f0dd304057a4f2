#include "max_pool.h"

#include <torch/csrc/stable/ops.h>

#include <cmath>

#include "kernels.h"
#include "walk.h"

namespace tgo::cpu {
namespace {

constexpr int64_t kGrain = 32 * 1024;  // elements that are worth a thread

struct Planes : Pool {
  Storage storage;
  int64_t count;

  Planes(const Tensor& x, const Tensor& y, const Tensor& winners, int64_t inner, const std::vector<int64_t>& window)
      : storage(storage_of(x)) {
    STD_TORCH_CHECK(x.dim() >= 2 && y.dim() == x.dim() && window.size() == 8 && inner > 0, "max_pool takes planes");
    STD_TORCH_CHECK(x.scalar_type() == y.scalar_type() && winners.scalar_type() == ScalarType::Byte &&
                        winners.numel() == y.numel(),
                    "max_pool takes one dtype, and a byte for each output");
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
    STD_TORCH_CHECK(window[0] * window[1] <= kNoWinner, "max_pool's window has more than ", int(kNoWinner), " taps");
    count = elements() ? x.numel() / elements() : 0;
    STD_TORCH_CHECK(count * elements() == x.numel() && count * row() * outputs[0] == y.numel(),
                    "max_pool's planes must be those of its outputs");
  }

  int64_t bytes() const { return storage == Storage::kFloat ? 4 : 2; }

  // f(pool, plane, bytes before it in x, outputs before it), with so much scratch.
  template <class F>
  void for_each(int64_t scratch, const F& f) const {
    torch::stable::parallel_for(0, count, std::max<int64_t>(1, kGrain / elements()), [&](int64_t begin, int64_t end) {
      std::vector<float> values(scratch);
      Pool pool = *this;
      pool.best = values.data();
      for (int64_t k = begin; k < end; ++k) f(pool, k, k * elements() * bytes(), k * outputs[0] * row());
    });
  }
};

}  // namespace

void max_pool(const Tensor& x, Tensor y, Tensor winners, int64_t inner, const std::vector<int64_t>& window,
              const OptionalTensor& scale) {
  const Planes p(x, y, winners, inner, window);
  std::vector<float> signs(inner, 1.f);
  if (scale) {
    STD_TORCH_CHECK(scale->is_contiguous() && scale->numel() > 0 && (inner == 1 || inner == scale->numel()),
                    "max_pool's scale must be of the channels");
    const float* const scales = scale->const_data_ptr<float>();
    signs.resize(scale->numel());
    for (size_t c = 0; c < signs.size(); ++c) signs[c] = std::copysign(1.f, scales[c]);
  }
  const auto* const from = static_cast<const char*>(x.const_data_ptr());
  auto* const to = static_cast<char*>(y.mutable_data_ptr());
  auto* const taps = winners.mutable_data_ptr<uint8_t>();
  p.for_each(p.row(), [&](const Pool& pool, int64_t k, int64_t at, int64_t output) {
    best_kernels().pool_outputs(pool, p.storage, from + at, &signs[inner == 1 ? k % signs.size() : 0],
                                to + output * p.bytes(), taps + output);
  });
}

void max_pool_bwd(const Tensor& grad, const Tensor& winners, Tensor g_x, int64_t inner,
                  const std::vector<int64_t>& window) {
  const Planes p(g_x, grad, winners, inner, window);
  const auto* const from = static_cast<const char*>(grad.const_data_ptr());
  const auto* const taps = winners.const_data_ptr<uint8_t>();
  auto* const to = static_cast<char*>(g_x.mutable_data_ptr());
  p.for_each(p.storage == Storage::kFloat ? 0 : p.elements(),
             [&](const Pool& pool, int64_t, int64_t at, int64_t output) {
               best_kernels().pool_back(pool, p.storage, from + output * p.bytes(), taps + output, to + at);
             });
}

}  // namespace tgo::cpu
