// The kernels, compiled once for each instruction set: the including file names TGO_ISA, and in that namespace F, the
// vector of floats; Lanes, as wide, of 64-bit words; LaneOps for philox(), Root for box_muller(), Widen from HalfF to
// Doubles, Stream for stores past the caches. Everything here is local to that file, so that no wide code leaks into
// others.

namespace tgo::cpu::TGO_ISA {
namespace {

constexpr int kLanes = sizeof(F) / sizeof(float);
constexpr int kPhilox = 4;  // vectors of Philox lanes side by side
constexpr int kBoxMuller = 4;  // vectors of Box-Muller side by side

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

// The low halves of the lanes of a, then of b.
TGO_HD Word<F> low_halves(Lanes a, Lanes b) {
#if defined(__clang__)
  typedef uint32_t HalfWord __attribute__((vector_size(sizeof(F) / 2)));
  const HalfWord halves[2] = {__builtin_convertvector(a, HalfWord), __builtin_convertvector(b, HalfWord)};
  Word<F> even;
  memcpy(&even, halves, sizeof(even));
  return even;
#else
  Word<F> even;
  for (int i = 0; i < kLanes; ++i) even[i] = 2 * i;
  return __builtin_shuffle((Word<F>)a, (Word<F>)b, even);
#endif
}

// Vectors side by side, of which the compiler makes as many operations.
typedef float Several __attribute__((vector_size(kBoxMuller * sizeof(F))));
struct SeveralRoots {
  TGO_HD Several operator()(Several x) const {
    F each[kBoxMuller];
    memcpy(each, &x, sizeof(x));
    for (F& one : each) one = Root()(one);
    memcpy(&x, each, sizeof(x));
    return x;
  }
};

void noise(uint64_t seed, const int64_t* neuron, int64_t first, int64_t len, uint32_t block, OutRows z) {
  alignas(64) uint32_t words[4][kBlock];
  Lanes count, keys[2 * kRounds];
  for (int i = 0; i < kLanes / 2; ++i) count[i] = i;
  philox_keys(seed, keys);
  asm("" : "+m"(keys));  // in memory: to broadcast them anew at every use costs more
  const Lanes block_lanes = Lanes{} + uint64_t(block);
  const auto draw = [&](int64_t j, const auto& index) TGO_INLINE {
    Lanes low[kPhilox], high[kPhilox], lanes[4][kPhilox];
    for (int i = 0; i < kPhilox; ++i) index(j + i * (kLanes / 2), &low[i], &high[i]);
    philox<LaneOps, kPhilox>(keys, low, high, block_lanes, lanes);
    for (int word = 0; word < 4; ++word)
      for (int i = 0; i < kPhilox; i += 2) {
        const Word<F> pair = low_halves(lanes[word][i], lanes[word][i + 1]);
        memcpy(words[word] + j + i * (kLanes / 2), &pair, sizeof(pair));
      }
  };
  constexpr int64_t width = kPhilox * kLanes / 2;
  if (neuron)
    for (int64_t j = 0; j < len; j += width)
      draw(j, [&](int64_t at, Lanes* low, Lanes* high) TGO_INLINE {
        memcpy(low, neuron + at, sizeof(*low));
        *high = *low >> 32;
      });
  else  // the high word is the same for the whole block, and what follows from it alone is computed once
    for (int64_t j = 0; j < len; j += width)
      draw(j, [&](int64_t at, Lanes* low, Lanes* high) TGO_INLINE {
        *low = count + uint64_t(first + at);
        *high = Lanes{} + (uint64_t(first) >> 32);
      });
  for (int pair = 0; pair < 4; pair += 2)  // loops of its own: the constants of both would not fit in the registers
    for (int64_t j = 0; j < len; j += kBoxMuller * kLanes) {
      Word<Several> a, b;
      memcpy(&a, words[pair] + j, sizeof(a));
      memcpy(&b, words[pair + 1] + j, sizeof(b));
      Several z0, z1;
      box_muller<SeveralRoots, Several>(a, b, &z0, &z1);
      memcpy(z[pair] + j, &z0, sizeof(z0));
      memcpy(z[pair + 1] + j, &z1, sizeof(z1));
    }
}

// u of step i, from h.
template <bool noisy, class Count>
TGO_HD F disturbed(F h, Rows xi, int64_t i, int64_t j, Count count, const Shared& n) {
  if constexpr (noisy) return disturb(h, load(xi[i] + j, count), n);
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
template <bool own, bool noisy, bool guarded>
void forward(const Neuron<>& constants, Rows table, int64_t steps, int64_t len, int64_t ahead, Rows x, Rows xi,
             const float* v, float* v_next, OutRows s, bool past_caches, bool v_past_caches, Totals* totals) {
  const Neuron<> shared = constants;
  const F zero{};
  F fired{}, neighbors{};  // exact: at most 2^24 a lane
  Doubles penalty[2] = {};
  alignas(64) float state[kBlock];
  for (int64_t i = 0; i < steps; ++i) {
    const float* before = i ? state : v;
    float* after = i + 1 < steps ? state : v_next;
    const bool after_past_caches = v_past_caches && i + 1 == steps;
    for_vectors(len, [&](int64_t j, auto count) TGO_INLINE {
      fetch(x[i] + j + ahead);
      if (!past_caches) fetch_to_write(s[i] + j + ahead);
      // Lanes past the row count nothing.
      const bool whole = std::is_same_v<decltype(count), Whole>;
      const auto& n = neurons_at<own>(shared, table, j, count);
      const F one = whole ? splat<F>(1.f) : load(kOnes, count);
      const F h = charge(load(before + j, count), load(x[i] + j, count), n);
      const F u = disturbed<noisy>(h, xi, i, j, count, n);
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

template <bool own, bool noisy, bool guarded, Curve curve>
void backward(const Neuron<>& constants, Rows table, int64_t steps, int64_t len, int64_t ahead, Rows x, Rows xi,
              const float* v, Rows g_s, float k, float* g_v, OutRows g_table, OutRows g_x, bool past_caches) {
  const Neuron<> shared = constants;
  constexpr int64_t kept = own ? kMaxChunk : 1;  // states: the decay's gradient asks for them
  alignas(64) float membrane[kMaxChunk][kBlock], state[kept][kBlock];
  for (int64_t i = 0; i < steps; ++i) {
    const float* before = i ? state[(i - 1) % kept] : v;
    for_vectors(len, [&](int64_t j, auto count) TGO_INLINE {
      fetch(x[i] + j + ahead);
      const auto& n = neurons_at<own>(shared, table, j, count);
      const F h = charge(load(before + j, count), load(x[i] + j, count), n);
      store(membrane[i] + j, h, count);
      store(state[i % kept] + j, reset(h, disturbed<noisy>(h, xi, i, j, count, n), n), count);
    });
  }
  for (int64_t i = steps - 1; i >= 0; --i)
    for_vectors(len, [&](int64_t j, auto count) TGO_INLINE {
      fetch(g_s[i] + j + ahead);
      if (!past_caches) fetch_to_write(g_x[i] + j + ahead);
      const auto& n = neurons_at<own>(shared, table, j, count);
      const F h = load(membrane[i] + j, count);
      const F u = disturbed<noisy>(h, xi, i, j, count, n);
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
#define TGO_FORWARD(own) \
  { {forward<own, false, false>, forward<own, false, true>}, {forward<own, true, false>, forward<own, true, true>} }
#define TGO_BACKWARD(own)                                                \
  {                                                                      \
    {TGO_CURVES(own, false, false), TGO_CURVES(own, false, true)},       \
        {TGO_CURVES(own, true, false), TGO_CURVES(own, true, true)}      \
  }
const Kernels kernels = {
    TGO_ISA_NAME,
    noise,
    {TGO_FORWARD(false), TGO_FORWARD(true)},
    {TGO_BACKWARD(false), TGO_BACKWARD(true)},
    load_row<Half>,
    load_row<BFloat16>,
    store_row<Half>,
    store_row<BFloat16>,
};

}  // namespace tgo::cpu::TGO_ISA
