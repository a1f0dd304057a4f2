// The CUDA engine's operators, dispatch, kernel bodies and sums, run by loops over blocks and threads on the host:
// everything of csrc/cuda but the launch. Registered as tgo_kernels_cuda_host::scan_fwd and scan_bwd for CPU tensors.
#include <torch/csrc/stable/library.h>

#include <vector>

#include "../csrc/cuda/ops.h"

namespace tgo::cuda {
namespace {

// A few blocks, so that the threads stride.
int64_t grid_for(int64_t neurons, int count) { return std::min<int64_t>(3, blocks_for(neurons, count)); }

template <class T>
T block_sum(T* shared, int threads) {
  for (int from = threads, to = threads > kThreads ? kThreads : kWarp; to > 0;
       from = to, to = to > kWarp ? kWarp : to / 2)
    for (int thread = 0; thread < threads; ++thread) fold(shared, thread, from, to);
  return shared[0];
}

struct HostDevice {
  explicit HostDevice(const Tensor&) {}

  // All threads, neighbours at the same time, so that ThreadSanitizer sees what two of them touch.
  template <class Body>
  static std::vector<BlockTotals> grid(const typename Body::Arguments& a, int64_t blocks) {
    const int64_t threads = blocks * kThreads;
    std::vector<BlockTotals> totals(threads);
    torch::stable::parallel_for(0, 2, 1, [&](int64_t begin, int64_t end) {
      for (int64_t parity = begin; parity < end; ++parity)
        for (int64_t thread = parity; thread < threads; thread += 2)
          totals[thread] = thread_body<Body>(a, thread, threads);
    });
    return totals;
  }

  void forward(const Form& form, const Forward& a, BlockTotals* partials, const Sums& sums) {
    run_forward(form, [&]<class Body>() {
      const int64_t blocks = grid_for(a.columns, Body::Walk::kCount);
      std::vector<BlockTotals> totals = grid<Body>(a, blocks);
      for (int64_t b = 0; b < blocks; ++b) partials[b] = block_sum(&totals[b * kThreads], kThreads);
      std::vector<GridTotals> all(kSumThreads);
      for (int thread = 0; thread < kSumThreads; ++thread) all[thread] = thread_sum(partials, blocks, thread);
      sums.write(block_sum(all.data(), kSumThreads));
    });
  }

  void backward(const Form& form, const Backward& a) {
    run_backward(form, [&]<class Body>() {
      grid<Body>(a, grid_for(a.columns, Body::Walk::kCount));
    });
  }
};

}  // namespace
}  // namespace tgo::cuda

STABLE_TORCH_LIBRARY_IMPL(tgo_kernels_cuda_host, CPU, m) {
  m.impl("scan_fwd", TORCH_BOX(&tgo::scan_fwd<tgo::cuda::Engine<tgo::cuda::HostDevice>>));
  m.impl("scan_bwd", TORCH_BOX(&tgo::scan_bwd<tgo::cuda::Engine<tgo::cuda::HostDevice>>));
}
