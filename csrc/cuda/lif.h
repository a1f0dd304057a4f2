// The CUDA kernels' bodies: what one thread does, as functions of the thread, so that the tests run them on the host.
#pragma once

#include <math.h>

#include "../lif_step.h"
#include "../noise.h"
#include "../storage.h"
#include "../surrogate.h"

namespace tgo::cuda {

constexpr int kThreads = 128;             // of a block
constexpr int kWarp = 32;
constexpr int kSpan = kStepsPerBlock;     // steps at once: those of one Philox block
constexpr int kCheckpointEvery = 8;       // steps between two saved states
constexpr int kDims = 6;                  // of a permuted layout

// Where a neuron lies: tgo::Layout without its vector.
struct Place {
  int64_t steps, neurons, inner;
  int dims;
  int64_t size[kDims], logical_stride[kDims];  // one of size N and stride 1 where the order of memory is the logical one

  // Step 0 of neuron m.
  TGO_HD int64_t offset(int64_t m) const { return inner == neurons ? m : m / inner * inner * steps + m % inner; }

  TGO_HD int64_t logical(int64_t m) const {
    int64_t index = 0;
    for (int d = dims - 1; d > 0; --d) {
      index += m % size[d] * logical_stride[d];
      m /= size[d];
    }
    return index + m * logical_stride[0];
  }
};

// Of neurons that have their own: see tgo::Options.
struct Table {
  const float* values;
  int64_t columns;
};

struct Forward {
  Neuron<> neuron;
  Table table;
  Place place;
  int64_t noise_step;
  const int64_t* seed;
  const void* x;
  const float* v_init;  // or null: rest
  void* spikes;
  float *v_final, *checkpoints;
};

struct Backward {
  Neuron<> neuron;
  Table table;
  Place place;
  int64_t noise_step;
  const int64_t* seed;
  const void *x, *g_spikes;  // g_spikes, g_v_final, g_penalty, g_v_init: or null
  const float *v_init, *checkpoints, *g_v_final, *g_penalty;
  void* g_x;
  float *g_v_init, *g_table;
  double share;  // 1 / (T * N)
  Curve curve;
};

template <class Count>
struct alignas(16) Totals {
  double penalty = 0;  // its terms are multiples of one fp32 ulp, so that the sum is exact
  Count neighbors = 0, fired = 0;

  template <class Other>
  TGO_HD void operator+=(const Totals<Other>& other) {
    penalty += other.penalty;
    neighbors += other.neighbors;
    fired += other.fired;
  }
};

using BlockTotals = Totals<int32_t>;  // none of 2^16 blocks sees 2^31 neuron-steps in less than 2^47, or T = 2^17
using GridTotals = Totals<int64_t>;

// Neighbours in memory, loaded and stored at once, and taken in turn from the front: a thread's registers cannot be
// indexed, and all neurons at once would not fit into them.
template <class S, int count>
struct Row {
  static constexpr int kLanes = count == 1 ? 1 : int(4 / sizeof(S));  // values in a word
  static constexpr int kWords = count / kLanes;
  struct alignas(sizeof(S) * count) Memory {
    std::conditional_t<count == 1, S, uint32_t> word[kWords];
  };
  uint32_t word[kWords];

  TGO_HD void load(const S* from) {
    const Memory memory = *reinterpret_cast<const Memory*>(from);
    TGO_UNROLL for (int i = 0; i < kWords; ++i) word[i] = bits(memory.word[i]);
  }
  TGO_HD void store(S* to) const {
    Memory memory;
    TGO_UNROLL for (int i = 0; i < kWords; ++i) put(word[i], &memory.word[i]);
#if defined(__CUDA_ARCH__)
    if constexpr (kWords == 4) {  // of the assignment below the compiler makes a store for each word
      asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(word[0]), "r"(word[1]), "r"(word[2]),
                   "r"(word[3])
                   : "memory");
      return;
    }
#endif
    *reinterpret_cast<Memory*>(to) = memory;
  }

  TGO_HD float front(int lane) const { return widen(value<S>(word[0] >> (8 * sizeof(S) * lane) % 32)); }

  TGO_HD void put_front(float x, int lane) {
    const int shift = 8 * sizeof(S) * lane % 32;
    const uint32_t mask = sizeof(S) == 4 ? ~0u : 0xFFFFu;
    word[0] = (word[0] & ~(mask << shift)) | bits(narrow<S>(x)) << shift;
  }

  // The word at the front goes to the end.
  TGO_HD void turn() {
    const uint32_t front = word[0];
    TGO_UNROLL for (int i = 1; i < kWords; ++i) word[i - 1] = word[i];
    word[kWords - 1] = front;
  }

 private:
  static TGO_HD uint32_t bits(uint32_t w) { return w; }
  static TGO_HD uint32_t bits(float x) { return bit_cast<uint32_t>(x); }
  template <class Narrow>
  static TGO_HD uint32_t bits(Narrow x) {
    return x.bits;
  }
  static TGO_HD void put(uint32_t w, uint32_t* to) { *to = w; }
  template <class Value>
  static TGO_HD void put(uint32_t w, Value* to) {
    *to = value<Value>(w);
  }
  template <class Value>
  static TGO_HD Value value(uint32_t w) {
    if constexpr (sizeof(Value) == 4)
      return bit_cast<Value>(w);
    else
      return {uint16_t(w)};
  }
};

// What two_normals() needs. The root is correctly rounded, from any inverse one within 4 ulp, for each of its squares.
struct Exact {
  static TGO_HD float root(float x) {
#if defined(__CUDA_ARCH__)
    float inverse;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
    const float root = __fmul_rn(x, inverse);
    return __fmaf_rn(__fmaf_rn(-root, root, x), __fmul_rn(inverse, 0.5f), root);
#else
    return sqrtf(x);
#endif
  }
  static TGO_HD float product_plus(float x, float scale, float c) {
#if defined(__CUDA_ARCH__)
    return __fmaf_rn(x, scale, c);
#else
    return x * scale + c;
#endif
  }
};

// One float of each neuron of a thread, in the same turn as their values.
template <int count>
struct InTurn {
  static constexpr int kQuad = count < 4 ? count : 4;  // moved at once
  float value[count];

  TGO_HD void fill(float with) { TGO_UNROLL for (int j = 0; j < count; ++j) value[j] = with; }

  TGO_HD void load(const float* from) {
    TGO_UNROLL for (int j = 0; j < count; j += kQuad) {
      Row<float, kQuad> quad;
      quad.load(from + j);
      TGO_UNROLL for (int i = 0; i < kQuad; ++i) value[j + i] = bit_cast<float>(quad.word[i]);
    }
  }
  TGO_HD void store(float* to) const {
    TGO_UNROLL for (int j = 0; j < count; j += kQuad) {
      Row<float, kQuad> quad;
      TGO_UNROLL for (int i = 0; i < kQuad; ++i) quad.word[i] = bit_cast<uint32_t>(value[j + i]);
      quad.store(to + j);
    }
  }

  TGO_HD void turn(float last) {
    TGO_UNROLL for (int j = 1; j < count; ++j) value[j - 1] = value[j];
    value[count - 1] = last;
  }
  TGO_HD void turn() { turn(value[0]); }
};

// The constants of a thread's neurons and the sums of their gradients. These are the same for all.
template <int count, bool own>
struct Constants {
  const Neuron<> n;

  TGO_HD Constants(const Neuron<>& neuron, const Table&, int64_t) : n(neuron) {}
  TGO_HD const Neuron<>& front() const { return n; }
  TGO_HD void turn() {}
  TGO_HD void add(float, float, float) {}
};

// Each neuron has its own: those of a table's columns.
template <int count>
struct Constants<count, true> {
  const Shared shared;
  InTurn<count> rows[3], sums[3];

  TGO_HD Constants(const Neuron<>& neuron, const Table& table, int64_t column) : shared(neuron) {
    TGO_UNROLL for (int row = 0; row < 3; ++row) {
      rows[row].load(table.values + row * table.columns + column);
      sums[row].fill(0.f);
    }
  }
  TGO_HD Neuron<> front() const { return with_own(shared, rows[0].value[0], rows[1].value[0], rows[2].value[0]); }
  TGO_HD void turn() { TGO_UNROLL for (auto& row : rows) row.turn(); }
  TGO_HD void add(float decay, float gain, float v_threshold) {
    sums[0].turn(sums[0].value[0] + decay);
    sums[1].turn(sums[1].value[0] + gain);
    sums[2].turn(sums[2].value[0] + v_threshold);
  }
  TGO_HD void store_sums(const Table& table, int64_t column, float* g_table) const {
    TGO_UNROLL for (int row = 0; row < 3; ++row) sums[row].store(g_table + row * table.columns + column);
  }
};

// `count` neurons, neighbours in memory, walked through time in spans of four steps that are aligned to the noise.
template <class S, int count, Noise noise, bool four>
struct Group {
  static constexpr bool noisy = noise != Noise::kNone;
  static constexpr bool wide = count > 1;  // the order of memory is the logical one, and time outermost
  using Values = Row<S, count>;
  static constexpr int kLanes = Values::kLanes, kPair = wide ? 2 : 1;

  using States = InTurn<count>;

  const Neuron<>& n;
  const Place& place;
  const int64_t noise_step, m, at;
  const int phase;  // steps by which the first span begins before step 0
  const int64_t* const seed;
  const int64_t index;  // of the first in the logical order, as the noise knows it

  template <class Arguments>
  TGO_HD Group(const Arguments& a, int64_t m)
      : n(a.neuron), place(a.place), noise_step(a.noise_step), m(m), at(wide ? m : a.place.offset(m)),
        phase(noisy && !four ? int(a.noise_step % kSpan) : 0), seed(a.seed),
        index(noisy && !wide ? a.place.logical(m) : m) {}

  TGO_HD int64_t spans() const { return (place.steps + phase + kSpan - 1) / kSpan; }

  // The potentials before and after the noise, and the state after a step.
  TGO_HD void step(const Neuron<>& own, float* v, float x, float z, float* h, float* u) const {
    *h = charge(*v, x, own);
    *u = noisy ? disturb(*h, z, own) : *h;
    *v = reset(*h, *u, own);
  }

  // f(lane, z) of each neuron in turn: it lies in that lane of the words at the front, z is its noise in the four steps
  // from t. Then turn(), where these words are done. More than a pair at once would not fit into 64 registers.
  template <int at_once, class F, class Turn>
  TGO_HD void for_neurons(int64_t t, const F& f, const Turn& turn) const {
    TGO_IN_TURN for (int j = 0; j < count; j += kPair) {
      uint32_t words[4];
      if constexpr (noisy) draw(index + j, uint32_t((noise_step + t) / kSpan), words);
      TGO_AT_ONCE(at_once) for (int i = 0; i < kPair; ++i) {
        float z[kSpan];
        if constexpr (noisy) {
          two_normals<Exact, float>(words[0], &z[0], &z[1]);
          two_normals<Exact, float>(words[1], &z[2], &z[3]);
          words[0] = words[2], words[1] = words[3];
        }
        f(i % kLanes, z);
        if (i % kLanes == kLanes - 1) turn();
      }
    }
  }

  // Two words of `first` and two of the other neuron of its pair.
  TGO_HD void draw(int64_t first, uint32_t block, uint32_t words[4]) const {
    // Read anew in every span, or else the keys of all rounds are kept for the next one, in twenty registers.
    uint64_t keys[2 * kRounds], of_both[4][1];
    philox_keys(uint64_t(*static_cast<const volatile int64_t*>(seed)), keys);
    const uint64_t pair = uint64_t(first) / 2, low[1] = {uint32_t(pair)}, high[1] = {pair >> 32};
    philox<ScalarLanes, 1>(keys, low, high, uint64_t(block), of_both);
    TGO_UNROLL for (int i = 0; i < 4; ++i)
      words[i] = uint32_t(!wide && first % 2 ? of_both[(i + 2) % 4][0] : of_both[i][0]);
  }

  // Rows t + begin .. t + end - 1.
  TGO_HD void load(const void* from, int64_t t, int begin, int end, Values rows[kSpan]) const {
    TGO_UNROLL for (int i = 0; i < kSpan; ++i)
      if (begin <= i && i < end) rows[i].load(static_cast<const S*>(from) + at + (t + i) * place.inner);
  }
  TGO_HD void store(void* to, int64_t t, int begin, int end, const Values rows[kSpan]) const {
    TGO_UNROLL for (int i = 0; i < kSpan; ++i)
      if (begin <= i && i < end) rows[i].store(static_cast<S*>(to) + at + (t + i) * place.inner);
  }

  // States in the order of memory.
  TGO_HD void load(const float* from, float otherwise, States* v) const {
    from ? v->load(from + m) : v->fill(otherwise);
  }
  TGO_HD void store(float* to, const States& v) const { v.store(to + m); }

  // Which of the steps t .. t + 3 lie within begin .. end - 1.
  static TGO_HD int first(int64_t t, int64_t begin) { return !four && t < begin ? int(begin - t) : 0; }
  static TGO_HD int last(int64_t t, int64_t end) { return !four && end - t < kSpan ? int(end - t) : kSpan; }
};

template <class Row>
TGO_HD void turn_all(Row rows[kSpan]) {
  TGO_UNROLL for (int i = 0; i < kSpan; ++i) rows[i].turn();
}

template <class S, int count, Noise noise, bool four, bool own, Curve>
struct ForwardBody {
  using Arguments = Forward;
  static constexpr int kCount = count, kBlocks = four ? 8 : 4, kAtOnce = own ? 1 : 2;
  static constexpr bool kOwn = own;
  static constexpr Noise kNoise = noise;
  using G = Group<S, count, noise, four>;

  static TGO_HD void run(const Forward& a, int64_t m, Constants<count, own>* constants, BlockTotals* totals) {
    const bool saves = !four && a.checkpoints;
    const G g(a, m);
    typename G::States v, saved;
    int fired = 0, neighbors = 0;
    g.load(four ? nullptr : a.v_init, g.n.v_rest, &v);
    for (int64_t t = -g.phase; t < (four ? kSpan : g.place.steps); t += kSpan) {
      const int begin = g.first(t, 0), end = g.last(t, g.place.steps);
      typename G::Values rows[kSpan];
      g.load(a.x, t, begin, end, rows);
      float fires = 0, nears = 0;  // a float is counted at once
      const auto one_neuron = [&](int lane, const float z[kSpan]) {
        const auto& n = constants->front();
        float h, u, state = v.value[0], kept = state;
        TGO_UNROLL for (int i = 0; i < kSpan; ++i)
          if (begin <= i && i < end) {
            g.step(n, &state, rows[i].front(lane), z[i], &h, &u);
            const float spike = u >= n.v_threshold ? 1.f : 0.f;
            rows[i].put_front(spike, lane);
            fires += spike;
            if (n.guard_margin > 0) {
              const float distance = absolute(h - n.v_threshold);
              totals->penalty += guard(distance, n);
              nears += distance < n.guard_margin ? 1.f : 0.f;
            }
            if (saves && (t + i + 1) % kCheckpointEvery == 0) kept = state;
          }
        constants->turn();
        v.turn(state);
        if (saves) saved.turn(kept);
      };
      g.template for_neurons<kAtOnce>(t, one_neuron, [&] { turn_all(rows); });
      fired += int(fires);
      neighbors += int(nears);
      g.store(a.spikes, t, begin, end, rows);
      if (saves) {
        const int64_t row = (t + end) / kCheckpointEvery;  // the state after step row * kCheckpointEvery - 1
        if (row > (t + begin) / kCheckpointEvery && row * kCheckpointEvery < g.place.steps)
          g.store(a.checkpoints + (row - 1) * g.place.neurons, saved);
      }
    }
    g.store(a.v_final, v);
    totals->fired += fired;
    totals->neighbors += neighbors;
  }
};

// four: T = 4 from rest, the noise begins with a Philox block, and no gradient enters or leaves by the state. It is the
// usual call, and needs far fewer registers.
template <class S, int count, Noise noise, bool four, bool own, Curve curve>
struct BackwardBody {
  using Arguments = Backward;
  static constexpr int kCount = count, kBlocks = four ? (has_exponential(curve) ? 6 : 8) : 4, kAtOnce = own ? 1 : 2;
  static constexpr bool kOwn = own;
  static constexpr Noise kNoise = noise;
  using G = Group<S, count, noise, four>;

  static TGO_HD void run(const Backward& a, int64_t m, Constants<count, own>* constants, BlockTotals*) {
    const G g(a, m);
    const float k = a.g_penalty ? float(double(*a.g_penalty) * a.share) : 0.f;
    typename G::States g_v;
    if (!four) g.load(a.g_v_final, 0.f, &g_v);
    for (int64_t span = four ? 0 : g.spans() - 1; span >= 0; --span) {
      const int64_t t = span * kSpan - g.phase;
      const int begin = g.first(t, 0), end = g.last(t, g.place.steps);
      typename G::States v;
      if (!four) recall(a, g, t + begin, constants, &v);
      typename G::Values x[kSpan], g_s[kSpan] = {};
      g.load(a.x, t, begin, end, x);
      if (a.g_spikes) g.load(a.g_spikes, t, begin, end, g_s);
      const auto one_neuron = [&](int lane, const float z[kSpan]) {
        const auto& n = constants->front();
        float h[kSpan], u[kSpan], before[kSpan], g_decay = 0, g_gain = 0, g_threshold = 0;
        float state = four ? g.n.v_rest : v.value[0], dv = four ? 0.f : g_v.value[0];
        TGO_UNROLL for (int i = 0; i < kSpan; ++i)
          if (begin <= i && i < end) {
            if constexpr (own) before[i] = state;
            g.step(n, &state, x[i].front(lane), z[i], &h[i], &u[i]);
          }
        TGO_UNROLL for (int i = kSpan - 1; i >= 0; --i)
          if (begin <= i && i < end) {
            const float d = (n.surrogate_at_h ? h[i] : u[i]) - n.v_threshold;
            const float slope = surrogate_of<curve>(a.curve, d, n.curve_height, n.curve_scale);
            const StepGradient<float> of = step_backward(h[i], u[i], slope, g_s[i].front(lane), dv, n);
            const float g_u = of.through_spike + of.past_reset;  // first, or else registers do not suffice
            const float pull = guard_backward(h[i], k, n), g_h = g_u + pull;
            if constexpr (own) {
              g_decay += g_h * (before[i] - n.v_rest);
              g_gain += g_h * x[i].front(lane);
              g_threshold += threshold_backward(u[i], of, pull, dv, n);
            }
            x[i].put_front(n.gain * g_h, lane);
            dv = n.decay * g_h;
          }
        constants->add(g_decay, g_gain, g_threshold);
        constants->turn();
        if (!four) {
          v.turn(0.f);
          g_v.turn(dv);
        }
      };
      g.template for_neurons<kAtOnce>(t, one_neuron, [&] { turn_all(x), turn_all(g_s); });
      g.store(a.g_x, t, begin, end, x);
    }
    if (!four && a.g_v_init) g.store(a.g_v_init, g_v);
  }

  // The state before step t, from the last one that was saved.
  static TGO_HD void recall(const Backward& a, const G& g, int64_t t, Constants<count, own>* constants,
                            typename G::States* v) {
    const int64_t origin = t / kCheckpointEvery * kCheckpointEvery;
    g.load(origin ? a.checkpoints + (origin / kCheckpointEvery - 1) * g.place.neurons : a.v_init, g.n.v_rest, v);
    for (int64_t at = (origin + g.phase) / kSpan * kSpan - g.phase; at < t; at += kSpan) {
      const int begin = g.first(at, origin), end = g.last(at, t);
      typename G::Values x[kSpan];
      g.load(a.x, at, begin, end, x);
      const auto one_neuron = [&](int lane, const float z[kSpan]) {
        float h, u, state = v->value[0];
        TGO_UNROLL for (int i = 0; i < kSpan; ++i)
          if (begin <= i && i < end) g.step(constants->front(), &state, x[i].front(lane), z[i], &h, &u);
        constants->turn();
        v->turn(state);
      };
      g.template for_neurons<kAtOnce>(at, one_neuron, [&] { turn_all(x); });
    }
  }
};

TGO_HD void store_sums(const Forward&, int64_t, const auto&) {}
TGO_HD void store_sums(const Backward& a, int64_t column, const auto& constants) {
  constants.store_sums(a.table, column, a.g_table);
}

// The groups of one thread of a grid: all that share a table's columns, in turn.
template <class Body>
TGO_HD BlockTotals thread_body(const typename Body::Arguments& a, int64_t thread, int64_t threads) {
  BlockTotals totals;
  const int64_t columns = Body::kOwn ? a.table.columns : a.place.neurons;
  for (int64_t column = thread * Body::kCount; column < columns; column += threads * Body::kCount) {
    Constants<Body::kCount, Body::kOwn> constants(with_known<Body::kNoise>(a.neuron), a.table, column);
    if constexpr (Body::kOwn) {
      for (int64_t m = column; m < a.place.neurons; m += columns) Body::run(a, m, &constants, &totals);
      store_sums(a, column, constants);
    } else {
      Body::run(a, column, &constants, &totals);
    }
  }
  return totals;
}

// The share of one thread in the sum over all partial sums.
TGO_HD GridTotals thread_sum(const BlockTotals* partials, int64_t count, int thread) {
  GridTotals totals;
  for (int64_t i = thread; i < count; i += kThreads) totals += partials[i];
  return totals;
}

// A round of a block's sum: the first `from` entries into the first `to`. Between two rounds, those threads meet.
template <class T>
TGO_HD void fold(T shared[kThreads], int thread, int from, int to) {
  if (thread >= to) return;
  T sum = shared[thread];
  TGO_UNROLL for (int i = to; i < from; i += to) sum += shared[thread + i];
  shared[thread] = sum;
}

struct Sums {
  float* penalty;
  int64_t *neighbors, *fired;
  double count;  // T * N

  TGO_HD void write(const GridTotals& totals) const {
    *penalty = float(totals.penalty / count);
    *neighbors = totals.neighbors;
    *fired = totals.fired;
  }
};

}  // namespace tgo::cuda
