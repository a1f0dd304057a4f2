#include "lif.h"

#include <torch/csrc/stable/ops.h>

#include <cstring>

namespace tgo::cpu {
namespace {

constexpr int64_t kGrain = 16 * 1024;  // neuron-steps that are worth a thread

// A block's rows stay in the L1 cache: fewer neurons where more steps are kept.
int64_t block_size(int64_t steps) { return steps > kStepsPerBlock ? kMaxBlock / 2 : kMaxBlock; }

struct alignas(64) Scratch {
  int64_t index[kMaxBlock];
  float noise[kMaxChunk + 2 * kStepsPerBlock][kMaxBlock];
  float h[kMaxChunk][kMaxBlock], u[kMaxChunk][kMaxBlock];
  float v[kMaxBlock], g_v[kMaxBlock], z[kMaxBlock], in[kMaxBlock], g_in[kMaxBlock], out[kMaxBlock];
  float zeros[kMaxBlock] = {};
  double penalty[kMaxBlock];
};

Scratch& scratch() {
  static thread_local Scratch mine;
  return mine;
}

// One block of neurons and its noise.
class Block {
 public:
  Block(const Options& options, const Layout& layout, const Kernels& kernels, int64_t m, int64_t len)
      : m(m), len(len), s(scratch()), options_(options), kernels_(kernels) {
    if (options.noise == kNoNoise) return;
    layout.logical(m, len, s.index);
    std::fill(s.index + len, s.index + std::min<int64_t>(kMaxBlock, len + 8), 0);  // whole vectors are read
  }

  // Draws the normals of the steps begin .. end - 1; at most kMaxChunk steps.
  void draw(int64_t begin, int64_t end) {
    if (options_.noise == kNoNoise) return;
    const int64_t first = (options_.noise_step + begin) / kStepsPerBlock;
    const int64_t last = (options_.noise_step + end - 1) / kStepsPerBlock;
    drawn_from_ = first * kStepsPerBlock - options_.noise_step;
    for (int64_t q = first; q <= last; ++q) {
      float* rows[kStepsPerBlock];
      for (int i = 0; i < kStepsPerBlock; ++i) rows[i] = s.noise[(q - first) * kStepsPerBlock + i];
      kernels_.noise(options_.seed, s.index, len, uint32_t(q), rows);
    }
  }
  const float* noise(int64_t t) const {
    return options_.noise == kNoNoise ? nullptr : s.noise[t - drawn_from_];
  }

  const int64_t m, len;
  Scratch& s;

 private:
  const Options& options_;
  const Kernels& kernels_;
  int64_t drawn_from_ = 0;
};

template <class F>
void for_each_block(const Layout& layout, int64_t size, const F& f) {
  const int64_t blocks = (layout.neurons + size - 1) / size;
  const int64_t grain = std::max<int64_t>(1, kGrain / (size * layout.steps));
  torch::stable::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) f(b, b * size, std::min(size, layout.neurons - b * size));
  });
}

}  // namespace

const Kernels& best_kernels() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  static const Kernels& best = __builtin_cpu_supports("x86-64-v4")   ? avx512::kernels
                               : __builtin_cpu_supports("x86-64-v3") ? avx2::kernels
                                                                     : generic::kernels;
  return best;
#else
  return generic::kernels;
#endif
}

Totals forward(const Options& options, const Layout& layout, const Kernels& kernels, const RowIO& x,
               const RowIO& spikes, float* v, float* checkpoints) {
  const bool guarded = options.neuron.guard_margin > 0;
  const auto step = kernels.forward[options.noise][options.soft_reset][guarded];
  const int64_t size = block_size(kStepsPerBlock);
  std::vector<Totals> totals((layout.neurons + size - 1) / size);
  for_each_block(layout, size, [&](int64_t b, int64_t m, int64_t len) {
    Block block(options, layout, kernels, m, len);
    Scratch& s = block.s;
    std::fill(s.penalty, s.penalty + kMaxBlock, 0.);
    int64_t drawn = 0;
    for (int64_t t = 0; t < layout.steps; ++t) {
      if (t == drawn) {
        drawn = t + kStepsPerBlock - (options.noise_step + t) % kStepsPerBlock;
        block.draw(t, drawn);
      }
      if (checkpoints && t > 0 && t % options.checkpoint_every == 0)
        memcpy(checkpoints + (t / options.checkpoint_every - 1) * layout.neurons + m, v + m, len * sizeof(float));
      float* out = spikes.begin(t, m, len, s.out);
      step(options.neuron, len, x.read(t, m, len, s.in), block.noise(t), v + m, out, s.penalty, &totals[b].counts);
      spikes.finish(t, m, len, out);
    }
    if (guarded) totals[b].penalty = kernels.sum(s.penalty, len);
  });
  Totals total;
  for (const Totals& t : totals) {
    total.penalty += t.penalty;
    total.counts.neighbors += t.counts.neighbors;
    total.counts.fired += t.counts.fired;
  }
  return total;
}

void backward(const Options& options, const Layout& layout, const Kernels& kernels, const RowIO& x,
              const RowIO& g_spikes, const RowIO& g_x, const float* v_init, const float* checkpoints, float k,
              float* g_v) {
  const bool noisy = options.noise != kNoNoise;
  const auto recompute = kernels.recompute[options.noise][options.soft_reset];
  const auto surrogate = kernels.surrogate[options.curve];
  const auto step = kernels.backward[options.noise][options.soft_reset][k != 0][options.detach_reset];
  const int64_t chunk = options.checkpoint_every;
  for_each_block(layout, block_size(std::min(chunk, layout.steps)), [&](int64_t, int64_t m, int64_t len) {
    Block block(options, layout, kernels, m, len);
    Scratch& s = block.s;
    float* g = g_v ? g_v + m : s.g_v;
    if (!g_v) std::fill(g, g + len, 0.f);
    for (int64_t begin = (layout.steps - 1) / chunk * chunk; begin >= 0; begin -= chunk) {
      const int64_t end = std::min(begin + chunk, layout.steps);
      const float* start = begin ? checkpoints + (begin / chunk - 1) * layout.neurons : v_init;
      if (start)
        memcpy(s.v, start + m, len * sizeof(float));
      else
        std::fill(s.v, s.v + len, options.neuron.v_rest);
      block.draw(begin, end);
      for (int64_t t = begin; t < end; ++t)
        recompute(options.neuron, len, x.read(t, m, len, s.in), block.noise(t), s.v, s.h[t - begin], s.u[t - begin]);
      for (int64_t t = end; t-- > begin;) {
        const float* h = s.h[t - begin];
        const float* u = noisy ? s.u[t - begin] : h;
        const float* g_s = g_spikes ? g_spikes.read(t, m, len, s.g_in) : s.zeros;
        float* out = g_x.begin(t, m, len, s.out);
        surrogate(options.neuron, len, options.surrogate_at_h ? h : u, s.z);
        step(options.neuron, len, h, u, s.z, g_s, k, g, out);
        g_x.finish(t, m, len, out);
      }
    }
  });
}

}  // namespace tgo::cpu
