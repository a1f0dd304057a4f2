// The kernels, compiled once for each instruction set: the including file names TGO_ISA, and in that namespace F, the
// vector of floats; Lanes, as wide, of 64-bit words; LaneOps for philox(), Exact for two_normals(), Widen from HalfF to
// Doubles, Stream for stores past the caches. Everything here is local to that file, so that no wide code leaks into
// others.

namespace tgo::cpu::TGO_ISA {
namespace {

constexpr int kLanes = sizeof(F) / sizeof(float);
constexpr int kPhilox = 4;  // vectors of Philox lanes side by side
constexpr int kTwoNormals = 4;  // vectors of words side by side

#define TGO_INLINE __attribute__((always_inline))

alignas(64) constexpr float kOnes[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

// Count is the number of floats: a constant for whole vectors, a variable for the last one of a row.
struct Whole {
  constexpr operator int64_t() const { return kLanes; }
};

template <class Count>
TGO_HD F load(const float* from, Count count) {
  F value{};
  memcpy(&value, from, count * sizeof(float));
  return value;
}

template <class Count>
TGO_HD void store(float* to, F value, Count count) {
  memcpy(to, &value, count * sizeof(float));
}

// To a row that is not read again soon: past the caches, where the row is aligned for it.
template <class Count>
TGO_HD void stream(float* to, F value, Count count, bool past_caches) {
  if (std::is_same_v<Count, Whole> && past_caches)
    Stream()(to, value);
  else
    store(to, value, count);
}

// Into the caches, ahead of its use: rows are too short for the machine to foresee the next.
TGO_HD void fetch(const void* at) { __builtin_prefetch(at, 0, 3); }
TGO_HD void fetch_to_write(const void* at) { __builtin_prefetch(at, 1, 2); }

template <class Body>
TGO_HD void for_vectors(int64_t len, const Body& body) {
  int64_t j = 0;
  for (; j + kLanes <= len; j += kLanes) body(j, Whole());
  if (j < len) body(j, len - j);
}

template <class Vector>
TGO_HD double sum(Vector v) {
  double total = 0;
  for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); ++i) total += v[i];
  return total;
}

// The low halves of the lanes of even, with those of odd between them.
TGO_HD Word<F> alternating(Lanes even, Lanes odd) { return (Word<F>)((even & 0xFFFFFFFFu) | odd << 32); }

// The low halves of at most so many lanes.
TGO_HD void store_low(uint32_t* to, Lanes from, int64_t count) {
  typedef uint32_t Half __attribute__((vector_size(sizeof(Lanes) / 2)));
  const Half low = __builtin_convertvector(from, Half);
  if (count >= kLanes / 2)
    memcpy(to, &low, sizeof(low));
  else
    for (int64_t i = 0; i < count; ++i) to[i] = low[i];
}

// Vectors side by side, of which the compiler makes as many operations.
typedef float Several __attribute__((vector_size(kTwoNormals * sizeof(F))));
struct EachExact {
  static TGO_HD Several root(Several x) {
    F each[kTwoNormals];
    memcpy(each, &x, sizeof(x));
    for (F& one : each) one = Exact::root(one);
    memcpy(&x, each, sizeof(x));
    return x;
  }
  static TGO_HD Several product_plus(Several x, float scale, Several c) {
    F each[kTwoNormals], plus[kTwoNormals];
    memcpy(each, &x, sizeof(x));
    memcpy(plus, &c, sizeof(c));
    for (int i = 0; i < kTwoNormals; ++i) each[i] = Exact::product_plus(each[i], scale, plus[i]);
    memcpy(&x, each, sizeof(x));
    return x;
  }
};

void noise(uint64_t seed, const int64_t* neuron, int64_t distance, int64_t first, int64_t len, uint32_t block, OutRows z,
           Rows next[2]) {
  constexpr int64_t kHalf = kLanes / 2;  // as many pairs as Lanes has
  alignas(64) uint32_t words[2][kBlock + 2 * kPhilox * kLanes];  // of steps 0 and 1, and of 2 and 3, by neuron
  Lanes count, keys[2 * kRounds];
  for (int i = 0; i < kHalf; ++i) count[i] = i;
  philox_keys(seed, keys);
  asm("" : "+m"(keys));  // in memory: to broadcast them anew at every use costs more
  const Lanes block_lanes = Lanes{} + uint64_t(block);
  // of(k, &low, &high): numbers of the k-th pair and of those behind it; put(word, k, even, odd): where their words go.
  const auto draw = [&](int64_t pairs, const auto& of, const auto& put) TGO_INLINE {
    for (int64_t k = 0; k < pairs; k += kPhilox * kHalf) {
      Lanes low[kPhilox], high[kPhilox], lanes[4][kPhilox];
      for (int i = 0; i < kPhilox; ++i) of(k + i * kHalf, &low[i], &high[i]);
      philox<LaneOps, kPhilox>(keys, low, high, block_lanes, lanes);
      for (int word = 0; word < 2; ++word)
        for (int i = 0; i < kPhilox; ++i) put(word, k + i * kHalf, lanes[word][i], lanes[word + 2][i]);
    }
  };
  const auto side_by_side = [&](int word, int64_t k, Lanes even, Lanes odd) TGO_INLINE {
    const Word<F> both = alternating(even, odd);
    memcpy(words[word] + 2 * k, &both, sizeof(both));
  };
  int64_t before = 0;  // words of neurons that are not asked for
  if (!neuron) {  // the high word is the same for the whole block, and what follows from it alone is computed once
    before = first % 2;
    const auto of = [&](int64_t k, Lanes* low, Lanes* high) TGO_INLINE {
      *low = count + uint64_t(first / 2 + k);
      *high = Lanes{} + (uint64_t(first / 2) >> 32);
    };
    draw((before + len + 1) / 2, of, side_by_side);
  } else if (distance == 1 && neuron[0] % 2 == 0) {
    const auto of = [&](int64_t k, Lanes* low, Lanes* high) TGO_INLINE {
      Lanes pair{};
      for (int i = 0; i < kHalf; ++i) pair[i] = neuron[2 * (k + i)] >> 1;
      *low = pair, *high = pair >> 32;
    };
    draw((len + 1) / 2, of, side_by_side);
  } else {  // of runs of `distance` neurons every other one is of even ones; short ones would not fill the lanes
    if (2 * distance < kPhilox * kHalf) distance = 0;
    for (int64_t j = 0, run, done; j < len; j += done) {
      run = distance ? distance - (first + j) % distance : len;
      const bool pairs = run == distance && j + 2 * run <= len && neuron[j] % 2 == 0;
      if (run > len - j) run = len - j;
      done = pairs ? 2 * run : run;
      const auto load_index = [&](int64_t k) TGO_INLINE {
        Lanes index;
        memcpy(&index, neuron + j + k, sizeof(index));
        return index;
      };
      const auto of = [&](int64_t k, Lanes* low, Lanes* high) TGO_INLINE {
        *low = load_index(k) >> 1, *high = load_index(k) >> 33;
      };
      draw(run, of, [&](int word, int64_t k, Lanes even, Lanes odd) TGO_INLINE {
        uint32_t* to = words[word] + j + k;
        store_low(to, pairs || load_index(k) % 2 == 0 ? even : odd, run - k);
        if (pairs) store_low(to + distance, odd, run - k);
      });
    }
  }
  for (int word = 0; word < 2; ++word)
    for (int64_t j = 0; j < len; j += kTwoNormals * kLanes) {
      for (int i = 2 * word; i < 2 * word + 2; ++i)
        for (int rows = 0; rows < 2; ++rows)
          if (next[rows][i])
            for (int64_t line = 0; line < kTwoNormals * kLanes; line += 16) fetch(next[rows][i] + j + line);
      Word<Several> several;
      memcpy(&several, words[word] + before + j, sizeof(several));
      Several z0, z1;
      two_normals<EachExact, Several>(several, &z0, &z1);
      memcpy(z[2 * word] + j, &z0, sizeof(z0));
      memcpy(z[2 * word + 1] + j, &z1, sizeof(z1));
    }
}

// u of step i, from h.
template <Noise noise, class Count>
TGO_HD F disturbed(F h, Rows xi, int64_t i, int64_t j, Count count, const Shared& n) {
  if constexpr (noise != Noise::kNone) return disturb(h, load(xi[i] + j, count), n);
  return h;
}

// The neurons at j: of the same constants, or each with its own.
template <bool own, class Count>
TGO_HD decltype(auto) neurons_at(const Neuron<>& n, Rows table, int64_t j, Count count) {
  if constexpr (own)
    return with_own(n, load(table[0] + j, count), load(table[1] + j, count), load(table[2] + j, count));
  else
    return (n);
}

// Row by row, so that no vector waits for the step before its own; the state stays in the cache.
template <bool own, Noise noise, bool guarded>
void forward(const Neuron<>& constants, Rows table, int64_t steps, int64_t len, int64_t ahead, Rows x, Rows xi,
             const float* v, float* v_next, OutRows s, bool past_caches, bool v_past_caches, Totals* totals) {
  const Neuron<> shared = with_known<noise>(constants);
  const F zero{};
  F fired{}, neighbors{};  // exact: at most 2^24 a lane
  Doubles penalty[2] = {};
  alignas(64) float state[kBlock];
  for (int64_t i = 0; i < steps; ++i) {
    const float* before = i ? state : v;
    float* after = i + 1 < steps ? state : v_next;
    const bool after_past_caches = v_past_caches && i + 1 == steps;
    for_vectors(len, [&](int64_t j, auto count) TGO_INLINE {
      if (noise == Noise::kNone) fetch(x[i] + j + ahead);
      if (!past_caches) fetch_to_write(s[i] + j + ahead);
      // Lanes past the row count nothing.
      const bool whole = std::is_same_v<decltype(count), Whole>;
      const auto& n = neurons_at<own>(shared, table, j, count);
      const F one = whole ? splat<F>(1.f) : load(kOnes, count);
      const F h = charge(load(before + j, count), load(x[i] + j, count), n);
      const F u = disturbed<noise>(h, xi, i, j, count, n);
      const F spike = u >= n.v_threshold ? one : zero;
      stream(s[i] + j, spike, count, past_caches);
      stream(after + j, reset(h, u, n), count, after_past_caches);
      fired += spike;
      if constexpr (guarded) {
        const F distance = absolute(h - n.v_threshold);
        const F term = guard(distance, n);
        const F counted = whole ? term : (one > 0.f ? term : zero);
        HalfF halves[2];
        memcpy(halves, &counted, sizeof(counted));
        penalty[0] += Widen()(halves[0]);
        penalty[1] += Widen()(halves[1]);
        neighbors += distance < n.guard_margin ? one : zero;
      }
    });
  }
  totals->fired += int64_t(sum(fired));
  totals->neighbors += int64_t(sum(neighbors));
  totals->penalty += sum(penalty[0] + penalty[1]);
}

template <bool own, Noise noise, bool guarded, Curve curve>
void backward(const Neuron<>& constants, Rows table, int64_t steps, int64_t len, int64_t ahead, Rows x, Rows xi,
              const float* v, Rows g_s, float k, float* g_v, OutRows g_table, OutRows g_x, bool past_caches) {
  const Neuron<> shared = with_known<noise>(constants);
  constexpr int64_t kept = own ? kMaxChunk : 1;  // states: the decay's gradient asks for them
  alignas(64) float membrane[kMaxChunk][kBlock], state[kept][kBlock];
  for (int64_t i = 0; i < steps; ++i) {
    const float* before = i ? state[(i - 1) % kept] : v;
    for_vectors(len, [&](int64_t j, auto count) TGO_INLINE {
      if (noise == Noise::kNone) fetch(x[i] + j + ahead);
      const auto& n = neurons_at<own>(shared, table, j, count);
      const F h = charge(load(before + j, count), load(x[i] + j, count), n);
      store(membrane[i] + j, h, count);
      store(state[i % kept] + j, reset(h, disturbed<noise>(h, xi, i, j, count, n), n), count);
    });
  }
  for (int64_t i = steps - 1; i >= 0; --i)
    for_vectors(len, [&](int64_t j, auto count) TGO_INLINE {
      if (noise == Noise::kNone) fetch(g_s[i] + j + ahead);
      if (!past_caches) fetch_to_write(g_x[i] + j + ahead);
      const auto& n = neurons_at<own>(shared, table, j, count);
      const F h = load(membrane[i] + j, count);
      const F u = disturbed<noise>(h, xi, i, j, count, n);
      const F z = surrogate<curve>((n.surrogate_at_h ? h : u) - n.v_threshold, n.curve_height, n.curve_scale);
      const F dv = load(g_v + j, count);
      const StepGradient<F> g = step_backward(h, u, z, load(g_s[i] + j, count), dv, n);
      F g_h = g.through_spike + g.past_reset, pull{};
      if constexpr (guarded) g_h = g_h + (pull = guard_backward(h, k, n));
      if constexpr (own) {
        const auto add = [&](float* sum, F term) TGO_INLINE { store(sum + j, load(sum + j, count) + term, count); };
        add(g_table[0], g_h * (load((i ? state[i - 1] : v) + j, count) - n.v_rest));
        add(g_table[1], g_h * load(x[i] + j, count));
        add(g_table[2], threshold_backward(u, g, pull, dv, n));
      }
      stream(g_x[i] + j, n.gain * g_h, count, past_caches);
      store(g_v + j, n.decay * g_h, count);
    });
}

#include "convert_impl.h"

}  // namespace

#define TGO_CURVES(...)                                                                                          \
  {                                                                                                              \
    backward<__VA_ARGS__, kLorentz>, backward<__VA_ARGS__, kLogistic>, backward<__VA_ARGS__, kTriangle>,         \
        backward<__VA_ARGS__, kBox>, backward<__VA_ARGS__, kExponential>, backward<__VA_ARGS__, kInverseSquare>, \
        backward<__VA_ARGS__, kGaussian>                                                                         \
  }
#define TGO_FORWARD(own, noise) {forward<own, noise, false>, forward<own, noise, true>}
#define TGO_BACKWARD(own, noise) {TGO_CURVES(own, noise, false), TGO_CURVES(own, noise, true)}
#define TGO_NOISES(kernel) \
  {{kernel(false, Noise::kNone), kernel(false, Noise::kAny), kernel(false, Noise::kUsual)}, \
   {kernel(true, Noise::kNone), kernel(true, Noise::kAny)}}
const Kernels kernels = {
    TGO_ISA_NAME,
    noise,
    TGO_NOISES(TGO_FORWARD),
    TGO_NOISES(TGO_BACKWARD),
    load_row<Half>,
    load_row<BFloat16>,
    store_row<Half>,
    store_row<BFloat16>,
};

}  // namespace tgo::cpu::TGO_ISA
