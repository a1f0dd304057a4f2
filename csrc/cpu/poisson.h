// Spikes by chance: values as rates.
#pragma once

#include "../call.h"

namespace tgo::cpu {
#pragma GCC visibility push(hidden)

// Of a dense x [*] spikes [steps, *] in its order and dtype, by tgo_kernels/poisson.py, from step `step` on.
Tensor poisson_spikes(const Tensor& x, int64_t steps, bool with_sign, const Tensor& seed, int64_t step);

#pragma GCC visibility pop
}  // namespace tgo::cpu
