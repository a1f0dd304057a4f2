// The CUDA kernels, their launch, and the operators of tgo_kernels/ops.py for CUDA tensors.
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "ops.h"

namespace tgo::cuda {
namespace {

// The sum over a block of so many threads, in thread 0.
template <int threads, class T>
__device__ T block_sum(const T& mine) {
  __shared__ T shared[threads];
  shared[threadIdx.x] = mine;
  __syncthreads();
  if constexpr (threads > kThreads) {
    fold(shared, threadIdx.x, threads, kThreads);
    __syncthreads();
  }
  if (threadIdx.x < kWarp) {
    fold(shared, threadIdx.x, kThreads, kWarp);
    TGO_UNROLL for (int half = kWarp / 2; half > 0; half /= 2) {
      __syncwarp();
      fold(shared, threadIdx.x, 2 * half, half);
    }
  }
  return shared[0];
}

template <class Body>
__device__ BlockTotals this_thread(const typename Body::Arguments& a) {
  return thread_body<Body>(a, int64_t(blockIdx.x) * kThreads + threadIdx.x, int64_t(gridDim.x) * kThreads);
}

template <class Body>
__global__ void __launch_bounds__(kThreads, Body::kBlocks)
    forward_kernel(const __grid_constant__ typename Body::Arguments a, BlockTotals* partials) {
  const BlockTotals sum = block_sum<kThreads>(this_thread<Body>(a));
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kSumThreads) sum_kernel(const BlockTotals* partials, int64_t count, Sums sums) {
  const GridTotals sum = block_sum<kSumThreads>(thread_sum(partials, count, threadIdx.x));
  if (threadIdx.x == 0) sums.write(sum);
}

template <class Body>
__global__ void __launch_bounds__(kThreads, Body::kBlocks)
    backward_kernel(const __grid_constant__ typename Body::Arguments a) {
  this_thread<Body>(a);
}

// The same library serves a torch without CUDA, so that it cannot be linked with the one that knows the stream; and
// Python loads that one for torch alone, so that the linker does not look into it either.
cudaStream_t current_stream(int32_t device_index) {
  using Get = AOTITorchError(int32_t device_index, void** stream);
  static Get* const get = [] {
    void* const cuda = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return cuda ? reinterpret_cast<Get*>(dlsym(cuda, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  STD_TORCH_CHECK(get, "CUDA: this torch's libtorch_cuda.so has no aoti_torch_get_current_cuda_stream");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(get(device_index, &stream));
  return static_cast<cudaStream_t>(stream);
}

class CudaDevice {
 public:
  explicit CudaDevice(const Tensor& x)
      : guard_(x.get_device_index()), stream_(current_stream(x.get_device_index())) {}

  void forward(const Form& form, const Forward& a, BlockTotals* partials, const Sums& sums) {
    run_forward(form, [&]<class Body>() {
      const int64_t blocks = blocks_for(a.columns, Body::Walk::kCount);
      forward_kernel<Body><<<blocks, kThreads, 0, stream_>>>(a, partials);
      sum_kernel<<<1, kSumThreads, 0, stream_>>>(partials, blocks, sums);
    });
    check();
  }

  void backward(const Form& form, const Backward& a) {
    run_backward(form, [&]<class Body>() {
      backward_kernel<Body><<<blocks_for(a.columns, Body::Walk::kCount), kThreads, 0, stream_>>>(a);
    });
    check();
  }

 private:
  static void check() {
    const cudaError_t error = cudaGetLastError();
    STD_TORCH_CHECK(error == cudaSuccess, "CUDA: ", cudaGetErrorString(error));
  }

  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace
}  // namespace tgo::cuda

STABLE_TORCH_LIBRARY_IMPL(tgo_kernels, CUDA, m) {
  m.impl("scan_fwd", TORCH_BOX(&tgo::scan_fwd<tgo::cuda::Engine<tgo::cuda::CudaDevice>>));
  m.impl("scan_bwd", TORCH_BOX(&tgo::scan_bwd<tgo::cuda::Engine<tgo::cuda::CudaDevice>>));
}
