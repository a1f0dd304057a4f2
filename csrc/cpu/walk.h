// The CPU engine on raw memory: the whole pass over T steps, blocks of neurons in parallel.
#pragma once

#include "../call.h"
#include "row_io.h"

namespace tgo::cpu {
// Hidden, as what it holds is.
#pragma GCC visibility push(hidden)

Totals forward(const Call&, const Forward&);
void backward(const Call&, const Backward&);

#pragma GCC visibility pop
}  // namespace tgo::cpu
