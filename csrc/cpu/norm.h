// What batch norm needs of a tensor beside a neuron's scan: moments, and the part of a gradient that comes from them.
#pragma once

#include "../call.h"

namespace tgo::cpu {
#pragma GCC visibility push(hidden)

// Of x, dense, [outer, channels, inner] in memory: of each channel the mean and the (biased) variance, [2, channels] in
// fp64, the same on any number of threads.
Tensor channel_moments(const Tensor& x, int64_t channels, int64_t inner);
// The line of a norm whose moments those of `count` elements are: scale, shift, mean and inverse deviation, fp32
// [channels, 1, ...] of so many `dims`; running statistics, fp32, move by `factor` towards the moments.
using Line = std::tuple<Tensor, Tensor, Tensor, Tensor>;
Line norm_line(const Tensor& moments, double count, const OptionalTensor& weight, const OptionalTensor& bias,
               OptionalTensor running_mean, OptionalTensor running_var, double factor, double eps, int64_t dims);
// What of the gradients of a line goes to weight, and what slope and offset of add_affine are for x.
std::tuple<Tensor, Tensor, Tensor> norm_grad(const Tensor& mean, const Tensor& inverse, const Tensor& scale,
                                             const OptionalTensor& g_scale, const OptionalTensor& g_shift,
                                             double count);
// g += slope x + offset, each fp32 [channels].
void add_affine(Tensor g, const Tensor& x, const Tensor& slope, const Tensor& offset, int64_t inner);

#pragma GCC visibility pop
}  // namespace tgo::cpu
