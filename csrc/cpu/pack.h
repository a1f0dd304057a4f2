// What a tensor of few different values is kept as: their numbers, as bits.
#pragma once

#include "../call.h"

namespace tgo::cpu {
#pragma GCC visibility push(hidden)

// x [*] of 2 or 4 bytes each, in the order of memory, as int64; empty where it has more than eight different values.
Tensor pack(const Tensor& x);
// Back into x, which is as dense as that was.
void unpack(const Tensor& packed, Tensor x);

#pragma GCC visibility pop
}  // namespace tgo::cpu
