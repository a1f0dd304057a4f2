#include "lif.h"

#include <torch/csrc/stable/ops.h>

#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string_view>

namespace tgo::cpu {
namespace {

constexpr int64_t kGrain = 16 * 1024;  // neuron-steps that are worth a thread

struct alignas(64) Scratch {
  int64_t index[kBlock];
  float noise[kMaxChunk + kStepsPerBlock][kBlock];  // a chunk may begin within a Philox block
  SpanRows x, g_s, out;
  float v[kMaxChunk / kSpan + kSpan - 1][kBlock], g_v[kBlock];  // before each span of a chunk
  float zeros[kBlock] = {};
};

Scratch& scratch() {
  static thread_local Scratch mine;
  return mine;
}

// As many steps as a kernel takes at once.
int64_t span(int64_t t, int64_t end) { return end - t >= kSpan ? kSpan : 1; }

// The noise of one block of neurons.
class BlockNoise {
 public:
  BlockNoise(const Options& options, const Layout& layout, const Kernels& kernels, int64_t m, int64_t len)
      : options_(options), layout_(layout), kernels_(kernels), m_(m), len_(len), s_(scratch()) {
    if (!options.noisy || layout.logical_order()) return;
    layout.logical(m, len, s_.index);
    std::fill(s_.index + len, s_.index + kBlock, 0);
  }

  // Draws the normals of the steps begin .. end - 1, at most kMaxChunk, and meanwhile fetches their rows of `tensors`.
  void draw(int64_t begin, int64_t end, std::initializer_list<const RowIO*> tensors) {
    if (!options_.noisy) return;
    const int64_t first = (options_.noise_step + begin) / kStepsPerBlock;
    const int64_t last = (options_.noise_step + end - 1) / kStepsPerBlock;
    drawn_from_ = first * kStepsPerBlock - options_.noise_step;
    for (int64_t q = first; q <= last; ++q) {
      float* rows[kStepsPerBlock];
      const char* ahead[3 * kStepsPerBlock];
      int count = 0;
      for (int64_t i = 0; i < kStepsPerBlock; ++i) {
        const int64_t t = q * kStepsPerBlock + i - options_.noise_step;
        rows[i] = s_.noise[t - drawn_from_];
        if (begin <= t && t < end)
          for (const RowIO* tensor : tensors)
            if ((ahead[count] = tensor->ahead(t, m_, len_))) ++count;
      }
      kernels_.noise(uint64_t(*options_.seed), layout_.logical_order() ? nullptr : s_.index, m_, len_, uint32_t(q), rows, ahead, count);
    }
  }

  void rows(int64_t t, int64_t steps, const float* xi[kSpan]) const {
    for (int64_t i = 0; i < steps && options_.noisy; ++i) xi[i] = s_.noise[t + i - drawn_from_];
  }

 private:
  const Options& options_;
  const Layout& layout_;
  const Kernels& kernels_;
  const int64_t m_, len_;
  Scratch& s_;
  int64_t drawn_from_ = 0;
};

int64_t block_count(const Layout& layout) { return (layout.neurons + kBlock - 1) / kBlock; }

template <class F>
void for_each_block(const Layout& layout, const F& f) {
  const int64_t grain = std::max<int64_t>(1, kGrain / (kBlock * layout.steps));
  torch::stable::parallel_for(0, block_count(layout), grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) f(b, b * kBlock, std::min(kBlock, layout.neurons - b * kBlock));
    __atomic_thread_fence(__ATOMIC_SEQ_CST);  // stores past the caches are not ordered by themselves
  });
}

}  // namespace

const Kernels& best_kernels() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  static const Kernels& best = []() -> const Kernels& {
    const char* set = std::getenv("ATEN_CPU_CAPABILITY");  // torch's own way to ask for less than the machine has
    const std::string_view limit = set ? set : "";
#define TGO_HAS(feature) __builtin_cpu_supports(feature)
    const bool v3 = TGO_HAS("avx2") && TGO_HAS("fma") && TGO_HAS("bmi") && TGO_HAS("bmi2");
    const bool v4 = v3 && TGO_HAS("avx512f") && TGO_HAS("avx512bw") && TGO_HAS("avx512cd") && TGO_HAS("avx512dq") &&
                    TGO_HAS("avx512vl");
#undef TGO_HAS
    if (v4 && limit != "avx2" && limit != "default") return avx512::kernels;
    return v3 && limit != "default" ? avx2::kernels : generic::kernels;
  }();
  return best;
#else
  return generic::kernels;
#endif
}

Totals forward(const Options& options, const Layout& layout, const Kernels& kernels, const RowIO& x,
               const RowIO& spikes, float* v, float* checkpoints) {
  const bool guarded = options.neuron.guard_margin > 0;
  std::vector<Totals> totals(block_count(layout));
  for_each_block(layout, [&](int64_t b, int64_t m, int64_t len) {
    BlockNoise noise(options, layout, kernels, m, len);
    Scratch& s = scratch();
    const float *in[kSpan], *xi[kSpan];
    float* out[kSpan];
    const int64_t chunk = options.checkpoint_every ? options.checkpoint_every : kMaxChunk;
    for (int64_t begin = 0; begin < layout.steps; begin += chunk) {
      const int64_t end = std::min(begin + chunk, layout.steps);
      if (checkpoints && begin)
        memcpy(checkpoints + (begin / chunk - 1) * layout.neurons + m, v + m, len * sizeof(float));
      noise.draw(begin, end, {&x, &spikes});
      for (int64_t t = begin, steps; t < end; t += steps) {
        steps = span(t, end);
        x.read(t, steps, m, len, s.x, in);
        noise.rows(t, steps, xi);
        spikes.begin(t, steps, m, len, s.out, out);
        kernels.forward[steps == kSpan][options.noisy][guarded](options.neuron, len, in, xi, v + m, out,
                                                                      spikes.past_caches(m, len), &totals[b]);
        spikes.finish(t, steps, m, len, out);
      }
    }
  });
  Totals total;
  for (const Totals& t : totals) {
    total.penalty += t.penalty;
    total.neighbors += t.neighbors;
    total.fired += t.fired;
  }
  return total;
}

void backward(const Options& options, const Layout& layout, const Kernels& kernels, const RowIO& x,
              const RowIO& g_spikes, const RowIO& g_x, const float* v_init, const float* checkpoints, float k,
              float* g_v) {
  const int64_t chunk = options.checkpoint_every;
  for_each_block(layout, [&](int64_t, int64_t m, int64_t len) {
    BlockNoise noise(options, layout, kernels, m, len);
    Scratch& s = scratch();
    const float *in[kSpan], *xi[kSpan], *g_s[kSpan] = {s.zeros, s.zeros, s.zeros, s.zeros};
    float* out[kSpan];
    float* g = g_v ? g_v + m : s.g_v;
    if (!g_v) std::fill(g, g + len, 0.f);
    for (int64_t begin = (layout.steps - 1) / chunk * chunk; begin >= 0; begin -= chunk) {
      const int64_t end = std::min(begin + chunk, layout.steps);
      const float* start = begin ? checkpoints + (begin / chunk - 1) * layout.neurons : v_init;
      if (start)
        memcpy(s.v[0], start + m, len * sizeof(float));
      else
        std::fill(s.v[0], s.v[0] + len, options.neuron.v_rest);
      noise.draw(begin, end, {&x, &g_spikes, &g_x});
      // The state before each span, then the spans from the last to the first.
      int64_t at[kMaxChunk], spans = 0;
      for (int64_t t = begin, steps; t < end; t += steps) {
        steps = span(t, end);
        at[spans++] = t;
        if (t + steps == end) break;
        x.read(t, steps, m, len, s.x, in);
        noise.rows(t, steps, xi);
        kernels.advance[steps == kSpan][options.noisy](options.neuron, len, in, xi, s.v[spans - 1], s.v[spans]);
      }
      while (spans-- > 0) {
        const int64_t t = at[spans], steps = span(t, end);
        x.read(t, steps, m, len, s.x, in);
        noise.rows(t, steps, xi);
        if (g_spikes) g_spikes.read(t, steps, m, len, s.g_s, g_s);
        g_x.begin(t, steps, m, len, s.out, out);
        kernels.backward[steps == kSpan][options.noisy][k != 0][options.curve](options.neuron, len, in, xi, s.v[spans],
                                                                               g_s, k, g, out,
                                                                               g_x.past_caches(m, len));
        g_x.finish(t, steps, m, len, out);
      }
    }
  });
}

}  // namespace tgo::cpu
