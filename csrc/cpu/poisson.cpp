#include "poisson.h"

#include <torch/csrc/stable/ops.h>

#include "kernels.h"
#include "walk.h"

namespace tgo::cpu {
namespace {

constexpr int64_t kSize = kBlock / 2;  // neurons of a block
constexpr int64_t kGrain = 32 * 1024;  // spikes that are worth a thread

}  // namespace

Tensor poisson_spikes(const Tensor& x, int64_t steps, bool with_sign, const Tensor& seed, int64_t step) {
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end()), strides(x.strides().begin(), x.strides().end());
  sizes.insert(sizes.begin(), steps);
  strides.insert(strides.begin(), x.numel());
  const Tensor spikes = empty(x, x.scalar_type(), Sizes(sizes.data(), sizes.size()),
                              Sizes(strides.data(), strides.size()));
  const Layout layout = layout_of(spikes);
  STD_TORCH_CHECK(layout.steps == steps && steps > 0, "x must be dense, and steps at least 1");
  const Storage storage = storage_of(x);
  const int64_t neurons = layout.neurons, size = x.element_size(), end = step + steps;
  const auto* const from = static_cast<const char*>(x.const_data_ptr());
  auto* const to = static_cast<char*>(spikes.mutable_data_ptr());
  const auto key = uint64_t(*seed.const_data_ptr<int64_t>());
  const int64_t grain = std::max<int64_t>(1, kGrain / (kSize * steps));
  torch::stable::parallel_for(0, (neurons + kSize - 1) / kSize, grain, [&](int64_t begin, int64_t last) {
    alignas(64) int64_t index[kSize + 64];  // read in whole vectors, from anywhere
    for (int64_t m = begin * kSize; m < std::min(last * kSize, neurons); m += kSize) {
      Chances c{from + m * size, {}, std::min(kSize, neurons - m), with_sign};
      if (!layout.logical_order()) layout.logical(m, c.len, index);
      for (int64_t q = step / kStepsPerBlock; q * kStepsPerBlock < end; ++q) {
        for (int64_t i = 0; i < kStepsPerBlock; ++i) {
          const int64_t t = q * kStepsPerBlock + i - step;
          c.rows[i] = t < 0 || t >= steps ? nullptr : to + (t * neurons + m) * size;
        }
        best_kernels().spikes(key, layout.logical_order() ? nullptr : index, layout.pair_distance(), m, uint32_t(q),
                              storage, c);
      }
    }
  });
  return spikes;
}

}  // namespace tgo::cpu
