// The CPU engine on raw memory: the whole pass over T steps, blocks of neurons in parallel.
#pragma once

#include "../call.h"
#include "row_io.h"

namespace tgo::cpu {

const Kernels& best_kernels();

// v_init: [N] or null (rest). v_final: [N]. checkpoints: [(T-1) / checkpoint_every, N], or null.
Totals forward(const Options&, const Layout&, const Kernels&, const RowIO& x, const RowIO& spikes, const float* v_init,
               float* v_final, float* checkpoints);

// v_init: [N] or null (rest). g_v: [N], dL/dv_final on entry and dL/dv_init on return, or null (0 on entry, not wanted).
// g_spikes may be null rows (0). k: dL/dpenalty / (T*N). g_table: as the table, if there is one; added to.
void backward(const Options&, const Layout&, const Kernels&, const RowIO& x, const RowIO& g_spikes, const RowIO& g_x,
              const float* v_init, const float* checkpoints, float k, float* g_v, float* g_table);

}  // namespace tgo::cpu
