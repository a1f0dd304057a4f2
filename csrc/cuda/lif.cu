#include "lif.h"
namespace tgo::cuda {
template <class Body>
__global__ void __launch_bounds__(kThreads, Body::kBlocks) sum_kernel(const __grid_constant__ typename Body::Arguments a, Totals* partials) {
  __shared__ Totals shared[kThreads];
  const int thread = threadIdx.x;
  shared[thread] = thread_body<Body>(a, int64_t(blockIdx.x) * kThreads + thread, int64_t(gridDim.x) * kThreads);
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    add_half(shared, thread, half);
  }
  if (thread == 0) partials[blockIdx.x] = shared[0];
}
template <class Body>
__global__ void __launch_bounds__(kThreads, Body::kBlocks) kernel(const __grid_constant__ typename Body::Arguments a) {
  thread_body<Body>(a, int64_t(blockIdx.x) * kThreads + threadIdx.x, int64_t(gridDim.x) * kThreads);
}
#define F(S,c,n,f,v) template __global__ void sum_kernel<ForwardBody<S,c,n,f,v>>(const __grid_constant__ Forward, Totals*);
#define B(S,c,n,f,k) template __global__ void kernel<BackwardBody<S,c,n,f,k>>(const __grid_constant__ Backward);
F(float,4,true,true,false) F(BFloat16,8,true,true,false) F(float,4,true,false,true) F(float,4,false,true,false) F(float,1,true,false,true)
B(float,4,true,true,kLorentz) B(BFloat16,8,true,true,kLorentz) B(float,4,true,false,kLorentz) B(BFloat16,8,true,false,kLorentz) B(float,4,false,true,kLorentz) B(float,1,true,false,kLogistic)
}
