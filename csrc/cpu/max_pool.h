// Max pools that keep their input, and find the winners again in the backward.
#pragma once

#include "../call.h"

namespace tgo::cpu {
#pragma GCC visibility push(hidden)

// x [*, H, W], which lies as [outer, H, W, inner] as y, grad and g_x do; window: size, stride, padding and dilation,
// each of H and of W.
void max_pool(const Tensor& x, Tensor y, int64_t inner, const std::vector<int64_t>& window);
void max_pool_bwd(const Tensor& x, const Tensor& grad, Tensor g_x, int64_t inner, const std::vector<int64_t>& window);

#pragma GCC visibility pop
}  // namespace tgo::cpu
