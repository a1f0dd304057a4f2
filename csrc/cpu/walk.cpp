#include "walk.h"

#include "sets.h"

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
  ChunkRows inputs[kMaxInputs], spikes, membrane, outputs[kMaxInputs];
  float states[kMaxStates][kBlock];
  float zeros[kBlock] = {};
};

Scratch& scratch() {
  static thread_local Scratch mine;
  return mine;
}

// The noise of one block of neurons.
class BlockNoise {
 public:
  BlockNoise(const Call& call, int64_t m, int64_t len)
      : call_(call), layout_(call.layout), first_step_(call.arguments.noise_step), m_(m), len_(len), s_(scratch()) {
    if (call.noisy() && !layout_.logical_order()) layout_.logical(m, len, s_.index);
  }

  // The normals of a chunk, in rows; meanwhile its rows are fetched.
  void draw(const Chunk& c, const float* xi[kMaxChunk], int64_t size, const Rows& x, const Rows* g_s = nullptr) {
    if (!call_.noisy()) return;
    const int64_t first = (first_step_ + c.t) / kStepsPerBlock;
    const int64_t last = (first_step_ + c.t + c.steps - 1) / kStepsPerBlock;
    const int64_t from = first * kStepsPerBlock - first_step_;  // may lie before the chunk
    for (int64_t q = first; q <= last; ++q) {
      float* rows[kStepsPerBlock];
      const void* fetched[2][kStepsPerBlock] = {};
      const void* const* next[2] = {fetched[0], fetched[1]};
      for (int64_t i = 0; i < kStepsPerBlock; ++i) {
        rows[i] = s_.noise[(q - first) * kStepsPerBlock + i];
        const int64_t step = (q - first) * kStepsPerBlock + i + from - c.t;
        if (step < 0 || step >= c.steps) continue;
        fetched[0][i] = x[step];
        fetched[1][i] = g_s ? (*g_s)[step] : nullptr;
      }
      best_kernels().noise(uint64_t(*call_.arguments.seed), layout_.logical_order() ? nullptr : s_.index,
                     layout_.pair_distance(), m_, len_, uint32_t(q), rows, next, size);
    }
    for (int64_t i = 0; i < c.steps; ++i) xi[i] = s_.noise[c.t + i - from];
  }

 private:
  const Call& call_;
  const Layout& layout_;
  const int64_t first_step_, m_, len_;
  Scratch& s_;
};

// How many neurons are a block: with noise fewer, whose rows stay in the innermost cache from the draw on.
int64_t block_size(const Call& call) { return call.noisy() ? kBlock / 4 : kBlock; }

int64_t block_count(const Call& call) {
  return (call.arguments.columns + block_size(call) - 1) / block_size(call);
}

// f(block, column, m, len) for the blocks of neurons that share a table's columns, in turn, and in parallel otherwise.
template <class F>
void for_each_block(const Call& call, const F& f) {
  const Layout& layout = call.layout;
  const int64_t columns = call.arguments.columns, turns = (layout.neurons + columns - 1) / columns;
  const int64_t size = block_size(call), grain = std::max<int64_t>(1, kGrain / (size * layout.steps * turns));
  torch::stable::parallel_for(0, block_count(call), grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      for (int64_t column = b * size, m = column; m < layout.neurons; m += columns)
        f(b, column, m, std::min({size, columns - column, layout.neurons - m}));
    __atomic_thread_fence(__ATOMIC_SEQ_CST);  // stores past the caches are not ordered by themselves
  });
}

// Where the block after that at m begins, for what is fetched ahead.
int64_t next_block(const Call& call, int64_t column, int64_t m) {
  const int64_t columns = call.arguments.columns;
  return m + columns < call.layout.neurons ? m + columns : column + block_size(call);
}

Kind kind_of(const Call& call, const Any& firing) {
  const Arguments& a = call.arguments;
  Kind kind{firing, storage_of(call.x), 0, a.lengths || a.timed};
  for (int k = 0; k < call.shape().constants; ++k) kind.own |= uint32_t(a.own[k] != nullptr) << k;
  return kind;
}

// What kernels are given of a block of neurons, whatever the steps.
template <class AnyWork>
AnyWork work_of(const Call& call, int64_t column, int64_t m, int64_t len) {
  const Arguments& a = call.arguments;
  AnyWork w;
  w.len = len;
  w.numbers = a.numbers;
  w.rests = a.rests;
  w.lengths = a.lengths ? a.lengths + m : nullptr;
  for (int k = 0; k < call.shape().constants; ++k) w.own[k] = a.own[k] ? a.own[k] + column : nullptr;
  w.timed = a.timed;
  w.columns = a.columns;
  return w;
}

// The states before step t, saved every so many steps.
void states_at(const Call& call, const float* checkpoints, int64_t t, int64_t every, int64_t m, Work* w) {
  const int states = call.shape().states;
  const float* const* first = call.arguments.states;
  for (int k = 0; k < states; ++k)
    w->before[k] = t          ? checkpoints + ((t / every - 1) * states + k) * call.layout.neurons + m
                   : first[k] ? first[k] + m
                              : nullptr;
}

const NeuronKernels& kernels_of(const Call& call) {
  return call.of_user ? *static_cast<const NeuronKernels*>(call.of_user->kernels) : best_kernels().neurons[call.neuron];
}

// Rows of x's kind: `data` is only read where they are no output.
RowIO rows_of(const Call& call, const void* data, bool output = false) {
  return RowIO(const_cast<void*>(data), storage_of(call.x), call.layout, call.neuron != 0, output);
}

// Rows of a gradient, which may be none.
void read_gradient(const RowIO& rows, const Chunk& chunk, Scratch& s, ChunkRows& scratch, Rows& to) {
  if (rows)
    rows.read(chunk, scratch, to);
  else
    std::fill_n(to, chunk.steps, s.zeros);
}

}  // namespace

const Kernels& best_kernels() {
#if TGO_WIDE
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

Totals forward(const Call& call, const Forward& a) {
  const Layout& layout = call.layout;
  const Shape shape = call.shape();
  const RowIO spikes = rows_of(call, a.spikes, true), membrane = rows_of(call, a.membrane, true);
  RowIO inputs[kMaxInputs];
  bool aligned = layout.neurons % 16 == 0;
  for (int k = 0; k < shape.inputs; ++k) inputs[k] = rows_of(call, a.inputs[k]);
  for (int k = 0; k < shape.states; ++k) aligned = aligned && reinterpret_cast<uintptr_t>(a.finals[k]) % 64 == 0;
  const int64_t size = call.checkpoint_every ? call.checkpoint_every : kMaxChunk;
  std::vector<Totals> totals(block_count(call));
  const ForwardKernel kernel = kernels_of(call).forward(kind_of(call, a.firing));
  for_each_block(call, [&](int64_t b, int64_t column, int64_t m, int64_t len) {
    BlockNoise noise(call, m, len);
    Scratch& s = scratch();
    ForwardWork w = work_of<ForwardWork>(call, column, m, len);
    Rows in[kMaxInputs];
    OutRows out, out_membrane;
    const float* xi[kMaxChunk];
    states_at(call, nullptr, 0, size, m, &w);
    for (int64_t t = 0; t < layout.steps; t += size) {
      const bool last = t + size >= layout.steps;
      const int64_t next = last ? layout.offset(next_block(call, column, m), 0) : layout.offset(m, t + size);
      const Chunk chunk{t, std::min(size, layout.steps - t), m, len, next - layout.offset(m, t)};
      for (int k = 0; k < shape.inputs; ++k) inputs[k].read(chunk, s.inputs[k], in[k]);
      noise.draw(chunk, xi, inputs[0].row_size(), in[0]);
      spikes.begin(chunk, s.spikes, out);
      if (membrane) membrane.begin(chunk, s.membrane, out_membrane);
      w.ahead = inputs[0].ahead(chunk);
      w.past_caches = spikes.past_caches(chunk);
      for (int64_t from = 0; from < chunk.steps; from += kStepsPerBlock) {
        const bool ends = from + kStepsPerBlock >= chunk.steps;
        w.t = t + from;
        w.steps = std::min<int64_t>(kStepsPerBlock, chunk.steps - from);
        for (int k = 0; k < shape.inputs; ++k) std::copy_n(in[k] + from, w.steps, w.inputs[k]);
        if (call.noisy()) std::copy_n(xi + from, w.steps, w.xi);
        std::copy_n(out + from, w.steps, w.spikes);
        if (membrane) std::copy_n(out_membrane + from, w.steps, w.membrane);
        for (int k = 0; k < shape.states; ++k)
          w.after[k] = ends && last            ? a.finals[k] + m
                       : ends && a.checkpoints ? a.checkpoints + (t / size * shape.states + k) * layout.neurons + m
                                               : s.states[k];
        w.after_past_caches = aligned && ends && last;
        kernel(a.firing, w, &totals[b]);
        std::copy_n(w.after, shape.states, w.before);
      }
      spikes.finish(chunk, out);
      if (membrane) membrane.finish(chunk, out_membrane);
    }
  });
  Totals total;
  for (const Totals& t : totals) {
    if (a.firing.guard) total.penalty += t.penalty;
    total.neighbors += t.neighbors;
    total.fired += t.fired;
  }
  return total;
}

void backward(const Call& call, const Backward& a) {
  const Layout& layout = call.layout;
  const Shape shape = call.shape();
  const RowIO g_spikes = rows_of(call, a.g_spikes), g_membrane = rows_of(call, a.g_membrane);
  RowIO inputs[kMaxInputs], g_inputs[kMaxInputs];
  for (int k = 0; k < shape.inputs; ++k) inputs[k] = rows_of(call, a.inputs[k]);
  for (int k = 0; k < shape.inputs; ++k) g_inputs[k] = rows_of(call, a.g_inputs[k], true);
  const int64_t size = call.checkpoint_every, last = (layout.steps - 1) / size * size;
  Any firing = a.firing;
  firing.pull = a.g_penalty ? float(double(*a.g_penalty) * a.share) : 0.f;
  firing.guard = firing.guard && firing.pull != 0;
  const BackwardKernel kernel = kernels_of(call).backward(kind_of(call, firing));
  for_each_block(call, [&](int64_t, int64_t column, int64_t m, int64_t len) {
    BlockNoise noise(call, m, len);
    Scratch& s = scratch();
    BackwardWork w = work_of<BackwardWork>(call, column, m, len);
    for (int k = 0; k < shape.constants; ++k) w.g_own[k] = a.g_own[k] ? a.g_own[k] + column : nullptr;
    for (int k = 0; k < shape.states; ++k) w.g_after[k] = a.g_finals[k] ? a.g_finals[k] + m : nullptr;
    for (int64_t t = last; t >= 0; t -= size) {
      const int64_t next = t ? layout.offset(m, t - size) : layout.offset(next_block(call, column, m), last);
      const Chunk chunk{t, std::min(size, layout.steps - t), m, len, next - layout.offset(m, t)};
      states_at(call, a.checkpoints, t, size, m, &w);
      for (int k = 0; k < shape.inputs; ++k) {
        inputs[k].read(chunk, s.inputs[k], w.inputs[k]);
        g_inputs[k].begin(chunk, s.outputs[k], w.g_inputs[k]);
      }
      read_gradient(g_spikes, chunk, s, s.spikes, w.g_spikes);
      if (call.has_membrane()) read_gradient(g_membrane, chunk, s, s.membrane, w.g_membrane);
      noise.draw(chunk, w.xi, inputs[0].row_size(), w.inputs[0], &w.g_spikes);
      w.t = t;
      w.steps = chunk.steps;
      w.ahead = inputs[0].ahead(chunk);
      w.past_caches = true;
      for (int k = 0; k < shape.inputs; ++k) w.past_caches = w.past_caches && g_inputs[k].past_caches(chunk);
      w.first_neurons = m == column;
      w.first = w.first_neurons && t == last;
      for (int k = 0; k < shape.states; ++k)
        w.g_before[k] = t ? s.states[k] : a.g_states[k] ? a.g_states[k] + m : nullptr;
      kernel(firing, w);
      std::copy_n(w.g_before, shape.states, w.g_after);
      for (int k = 0; k < shape.inputs; ++k) g_inputs[k].finish(chunk, w.g_inputs[k]);
    }
  });
}

}  // namespace tgo::cpu
