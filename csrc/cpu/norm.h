// What batch norm needs of a tensor beside a neuron's scan: moments, and the part of a gradient that comes from them.
#pragma once

#include "../call.h"

namespace tgo::cpu {
#pragma GCC visibility push(hidden)

// Of x, dense, [outer, channels, inner] in memory: of each channel the mean and the (biased) variance, [2, channels] in
// fp64, the same on any number of threads.
Tensor channel_moments(const Tensor& x, int64_t channels, int64_t inner);
// g += slope x + offset, each fp32 [channels].
void add_affine(Tensor g, const Tensor& x, const Tensor& slope, const Tensor& offset, int64_t inner);

#pragma GCC visibility pop
}  // namespace tgo::cpu
