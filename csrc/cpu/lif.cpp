#include "lif.h"

#include <torch/csrc/stable/ops.h>

#include <cstdlib>
#include <cstring>
#include <string_view>

namespace tgo::cpu {
namespace {

constexpr int64_t kGrain = 16 * 1024;  // neuron-steps that are worth a thread

struct alignas(64) Scratch {
  int64_t index[kBlock + 64];  // read in whole vectors, from anywhere
  float noise[kMaxChunk + kStepsPerBlock][kBlock];  // a chunk may begin within a Philox block
  ChunkRows x, g_s, out;
  float v[kBlock], g_v[kBlock];
  float zeros[kBlock] = {};
};

Scratch& scratch() {
  static thread_local Scratch mine;
  return mine;
}

// The noise of one block of neurons.
class BlockNoise {
 public:
  BlockNoise(const Options& options, const Layout& layout, const Kernels& kernels, int64_t m, int64_t len)
      : options_(options), layout_(layout), kernels_(kernels), m_(m), len_(len), s_(scratch()) {
    if (options.noisy() && !layout.logical_order()) layout.logical(m, len, s_.index);
  }

  // The normals of a chunk, in rows; meanwhile its rows are fetched.
  void draw(const Chunk& c, const float* xi[kMaxChunk], Rows x, Rows g_s = nullptr) {
    if (!options_.noisy()) return;
    const int64_t first = (options_.noise_step + c.t) / kStepsPerBlock;
    const int64_t last = (options_.noise_step + c.t + c.steps - 1) / kStepsPerBlock;
    const int64_t from = first * kStepsPerBlock - options_.noise_step;  // may lie before the chunk
    for (int64_t q = first; q <= last; ++q) {
      float* rows[kStepsPerBlock];
      const float* fetched[2][kStepsPerBlock] = {};
      Rows next[2] = {fetched[0], fetched[1]};
      for (int64_t i = 0; i < kStepsPerBlock; ++i) {
        rows[i] = s_.noise[(q - first) * kStepsPerBlock + i];
        const int64_t step = (q - first) * kStepsPerBlock + i + from - c.t;
        if (step < 0 || step >= c.steps) continue;
        fetched[0][i] = x[step];
        fetched[1][i] = g_s ? g_s[step] : nullptr;
      }
      kernels_.noise(uint64_t(*options_.seed), layout_.logical_order() ? nullptr : s_.index,
                     layout_.pair_distance(), m_, len_, uint32_t(q), rows, next);
    }
    for (int64_t i = 0; i < c.steps; ++i) xi[i] = s_.noise[c.t + i - from];
  }

 private:
  const Options& options_;
  const Layout& layout_;
  const Kernels& kernels_;
  const int64_t m_, len_;
  Scratch& s_;
};

int64_t block_count(int64_t columns) { return (columns + kBlock - 1) / kBlock; }

// f(block, column, m, len) for the blocks of neurons that share a table's columns, in turn, and in parallel otherwise.
template <class F>
void for_each_block(const Options& options, const Layout& layout, const F& f) {
  const int64_t columns = options.columns, turns = (layout.neurons + columns - 1) / columns;
  const int64_t grain = std::max<int64_t>(1, kGrain / (kBlock * layout.steps * turns));
  torch::stable::parallel_for(0, block_count(columns), grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      for (int64_t column = b * kBlock, m = column; m < layout.neurons; m += columns)
        f(b, column, m, std::min({kBlock, columns - column, layout.neurons - m}));
    __atomic_thread_fence(__ATOMIC_SEQ_CST);  // stores past the caches are not ordered by themselves
  });
}

// Where the block after that at m begins, for what is fetched ahead.
int64_t next_block(const Options& options, const Layout& layout, int64_t column, int64_t m) {
  return m + options.columns < layout.neurons ? m + options.columns : column + kBlock;
}

// A table's rows at a column, if there is one.
template <class Float>
std::array<Float*, 3> rows_at(Float* table, int64_t columns, int64_t column) {
  if (!table) return {};
  return {table + column, table + columns + column, table + 2 * columns + column};
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
               const RowIO& spikes, const float* v_init, float* v_final, float* checkpoints) {
  const bool guarded = options.neuron.guard_margin > 0;
  std::vector<Totals> totals(block_count(options.columns));
  const bool v_aligned = reinterpret_cast<uintptr_t>(v_final) % 64 == 0;
  for_each_block(options, layout, [&](int64_t b, int64_t column, int64_t m, int64_t len) {
    BlockNoise noise(options, layout, kernels, m, len);
    Scratch& s = scratch();
    const auto table = rows_at(options.table, options.columns, column);
    const float *in[kMaxChunk], *xi[kMaxChunk];
    float* out[kMaxChunk];
    const float* v = v_init ? v_init + m : s.v;
    if (!v_init) std::fill(s.v, s.v + len, options.neuron.v_rest);
    const int64_t size = options.checkpoint_every ? options.checkpoint_every : kMaxChunk;
    for (int64_t t = 0; t < layout.steps; t += size) {
      const int64_t end = std::min(t + size, layout.steps);
      const bool last = end == layout.steps;
      const int64_t next = last ? layout.offset(next_block(options, layout, column, m), 0) : layout.offset(m, end);
      const Chunk chunk{t, end - t, m, len, next - layout.offset(m, t)};
      float* v_next = last ? v_final + m : checkpoints ? checkpoints + t / size * layout.neurons + m : s.v;
      x.read(chunk, s.x, in);
      noise.draw(chunk, xi, in);
      spikes.begin(chunk, s.out, out);
      const bool past_caches = spikes.past_caches(chunk);
      kernels.forward[options.table != nullptr][int(options.noise)][guarded](
          options.neuron, table.data(), chunk.steps, len, x.ahead(chunk), in, xi, v, v_next, out, past_caches,
          past_caches && last && v_aligned, &totals[b]);
      spikes.finish(chunk, out);
      v = v_next;
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
              float* g_v, float* g_table) {
  const int64_t size = options.checkpoint_every, last = (layout.steps - 1) / size * size;
  for_each_block(options, layout, [&](int64_t, int64_t column, int64_t m, int64_t len) {
    BlockNoise noise(options, layout, kernels, m, len);
    Scratch& s = scratch();
    const auto table = rows_at(options.table, options.columns, column);
    const auto g_own = rows_at(options.table ? g_table : nullptr, options.columns, column);
    const float *in[kMaxChunk], *xi[kMaxChunk], *g_s[kMaxChunk];
    float* out[kMaxChunk];
    std::fill(g_s, g_s + kMaxChunk, s.zeros);
    float* g = g_v ? g_v + m : s.g_v;
    if (!g_v) std::fill(g, g + len, 0.f);
    for (int64_t t = last; t >= 0; t -= size) {
      const int64_t next = t ? layout.offset(m, t - size) : layout.offset(next_block(options, layout, column, m), last);
      const Chunk chunk{t, std::min(size, layout.steps - t), m, len, next - layout.offset(m, t)};
      const float* v = t ? checkpoints + (t / size - 1) * layout.neurons + m : v_init ? v_init + m : s.v;
      if (v == s.v) std::fill(s.v, s.v + len, options.neuron.v_rest);
      x.read(chunk, s.x, in);
      if (g_spikes) g_spikes.read(chunk, s.g_s, g_s);
      noise.draw(chunk, xi, in, g_s);
      g_x.begin(chunk, s.out, out);
      kernels.backward[options.table != nullptr][int(options.noise)][k != 0][options.curve](
          options.neuron, table.data(), chunk.steps, len, x.ahead(chunk), in, xi, v, g_s, k, g, g_own.data(), out,
          g_x.past_caches(chunk));
      g_x.finish(chunk, out);
    }
  });
}

}  // namespace tgo::cpu
