// The operators of tgo_kernels/ops.py for CPU tensors. Their schemas are defined there.
#include <torch/csrc/stable/library.h>

#include <string>

#include "cpu/max_pool.h"
#include "cpu/norm.h"
#include "cpu/pack.h"
#include "cpu/poisson.h"
#include "cpu/table.h"
#include "cpu/walk.h"
#include "scan.h"

#if defined(__GLIBC__) && __has_include(<sys/single_threaded.h>)
// What std::shared_ptr asks, that it counts atomically: of this library alone, since glibc has it from 2.32 on, and all
// else here from 2.14 on.
extern "C" {
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
}
#endif

namespace {

using namespace tgo;

struct CpuEngine {
  explicit CpuEngine(const Tensor&) {}

  static const Tensor& taken(const Tensor& x) { return x; }
  static void check(int64_t checkpoint_every) {
    STD_TORCH_CHECK(0 <= checkpoint_every && checkpoint_every <= cpu::kMaxChunk, "checkpoint_every must be 0 .. ",
                    cpu::kMaxChunk, ", got ", checkpoint_every);
  }
  static void forward(const Call& call, const Forward& a, const Sums& sums) { sums.write(cpu::forward(call, a)); }
  static void backward(const Call& call, const Backward& a) { cpu::backward(call, a); }
};

std::string cpu_kernels() { return cpu::best_kernels().name; }

std::string headers() { return TGO_HEADERS; }

std::string built_by() {
#ifdef __clang__
  const std::string compiler = __VERSION__;
#else
  const std::string compiler = "GCC " __VERSION__;
#endif
#ifdef __GLIBC__
  return compiler + ", glibc " + std::to_string(__GLIBC__) + "." + std::to_string(__GLIBC_MINOR__) + ", " TGO_FLAGS;
#else
  return compiler + ", " TGO_FLAGS;
#endif
}

void own_neuron(int64_t number, int64_t states, int64_t inputs, int64_t constants, int64_t kernels) {
  OwnNeurons::add(number, {{int(states), int(inputs), int(constants)}, reinterpret_cast<const void*>(kernels)});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tgo_kernels, CompositeExplicitAutograd, m) {
  m.impl("cpu_kernels", TORCH_BOX(&cpu_kernels));
  m.impl("headers", TORCH_BOX(&headers));
  m.impl("built_by", TORCH_BOX(&built_by));
  m.impl("own_neuron", TORCH_BOX(&own_neuron));
}

STABLE_TORCH_LIBRARY_IMPL(tgo_kernels, CPU, m) {
  m.impl("scan_fwd", TORCH_BOX(&scan_fwd<CpuEngine>));
  m.impl("scan_bwd", TORCH_BOX(&scan_bwd<CpuEngine>));
  m.impl("add_affine", TORCH_BOX(&cpu::add_affine));
  m.impl("channel_moments", TORCH_BOX(&cpu::channel_moments));
  m.impl("fill_table", TORCH_BOX(&cpu::fill_table));
  m.impl("max_pool", TORCH_BOX(&cpu::max_pool));
  m.impl("max_pool_bwd", TORCH_BOX(&cpu::max_pool_bwd));
  m.impl("norm_grad", TORCH_BOX(&cpu::norm_grad));
  m.impl("norm_line", TORCH_BOX(&cpu::norm_line));
  m.impl("pack", TORCH_BOX(&cpu::pack));
  m.impl("poisson_spikes", TORCH_BOX(&cpu::poisson_spikes));
  m.impl("sum_table", TORCH_BOX(&cpu::sum_table));
  m.impl("unpack", TORCH_BOX(&cpu::unpack));
}
