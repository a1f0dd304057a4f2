// The table of constants (see tgo_kernels/table.py), where it is small: a call of many small ones of torch's.
#pragma once

#include "../call.h"

namespace tgo::cpu {
#pragma GCC visibility push(hidden)

// The table [R, D] of fp32 values that broadcast to one step of x or to all: `order` are x's dimensions as they lie in
// memory, time first, `shape` how often the columns repeat, and the last of those dimensions' sizes.
Tensor fill_table(const std::vector<int64_t>& shape, const std::vector<int64_t>& order, const Tensors& values);
// Of its gradient those of the values, sums in fp64 in an order of its own; `sizes` are, for each, how many dimensions
// it has, and these.
Tensors sum_table(const Tensor& grad, const std::vector<int64_t>& shape, const std::vector<int64_t>& order,
                  const std::vector<int64_t>& sizes);

#pragma GCC visibility pop
}  // namespace tgo::cpu
