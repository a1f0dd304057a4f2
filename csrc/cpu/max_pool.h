// Max pools that keep a byte for each output: where in its window it was found.
#pragma once

#include "../call.h"

namespace tgo::cpu {
#pragma GCC visibility push(hidden)

// x [*, H, W], which lies as [outer, H, W, inner] as y, winners, grad and g_x do; window: size, stride, padding and
// dilation, each of H and of W; of the channels of a negative `scale` (fp32 [channels]) the smallest are taken.
void max_pool(const Tensor& x, Tensor y, Tensor winners, int64_t inner, const std::vector<int64_t>& window,
              const OptionalTensor& scale);
void max_pool_bwd(const Tensor& grad, const Tensor& winners, Tensor g_x, int64_t inner,
                  const std::vector<int64_t>& window);

#pragma GCC visibility pop
}  // namespace tgo::cpu
