// A thread's walk: neighbouring neurons through time, in spans of four steps that are aligned to the noise.
#pragma once

#include <math.h>

#include "../noise.h"
#include "totals.h"

namespace tgo::cuda {

constexpr int kSpan = kStepsPerBlock;                    // steps at once: those of one Philox block
constexpr int kCheckpointEvery = 8;                      // steps between two saved states
constexpr int kSpansBetween = kCheckpointEvery / kSpan;  // they are saved where a span ends

// What a kernel knows of the flags of its calls. kQuiet: no noise. kUsual: noise that stays in the membrane, a hard
// reset, gradients through it. kFirst: any noise, a hard or soft reset. Only kAny has the rarer features.
enum class Kind { kQuiet, kUsual, kFirst, kAny };

template <Kind, Curve kCurve>
struct Flags : Any {
  static constexpr bool guard = true;  // of the backward: a margin of 0 pulls at nothing

  TGO_HD Flags(const Any& any) : Any(any) {}
  template <class F>
  TGO_HD F slope(F d) const {
    return surrogate_of<kCurve>(curve, d, curve_height, curve_scale);
  }
};

template <Curve kCurve>
struct Flags<Kind::kFirst, kCurve> : Flags<Kind::kAny, kCurve> {
  static constexpr Membrane membrane = Membrane::kNone;
  static constexpr bool below = false, strict = false;
  static constexpr float grid = 0;
  const Reset reset;

  TGO_HD Flags(const Any& any)
      : Flags<Kind::kAny, kCurve>(any), reset(any.reset == Reset::kHard ? Reset::kHard : Reset::kSoft) {}
};

template <Curve kCurve>
struct Flags<Kind::kQuiet, kCurve> : Flags<Kind::kFirst, kCurve> {
  static constexpr Noise noise = Noise::kNone;
  static constexpr bool surrogate_at_h = false;
  using Flags<Kind::kFirst, kCurve>::Flags;
};

template <Curve kCurve>
struct Flags<Kind::kUsual, kCurve> : Flags<Kind::kFirst, kCurve> {
  static constexpr Noise noise = Noise::kMembrane;
  static constexpr Reset reset = Reset::kHard;
  static constexpr bool surrogate_at_h = false, detach_reset = false;
  using Flags<Kind::kFirst, kCurve>::Flags;
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

template <int count, int kStates>
struct States {
  InTurn<count> each[kStates];

  TGO_HD void load(const float* const from[], int64_t m, const float* otherwise) {
    TGO_UNROLL for (int k = 0; k < kStates; ++k) each[k].load_or_fill(from[k], m, otherwise[k]);
  }
  TGO_HD void store(float* const to[], int64_t m) const {
    TGO_UNROLL for (int k = 0; k < kStates; ++k) each[k].store(to[k] + m);
  }
  // A checkpoint's, a row of all neurons for each.
  TGO_HD void load(const float* from, int64_t m, int64_t neurons) {
    TGO_UNROLL for (int k = 0; k < kStates; ++k) each[k].load(from + k * neurons + m);
  }
  TGO_HD void store(float* to, int64_t m, int64_t neurons) const {
    TGO_UNROLL for (int k = 0; k < kStates; ++k) each[k].store(to + k * neurons + m);
  }

  TGO_HD void front(float states[kStates]) const {
    TGO_UNROLL for (int k = 0; k < kStates; ++k) states[k] = each[k].front();
  }
  TGO_HD void turn(const float last[kStates]) {
    TGO_UNROLL for (int k = 0; k < kStates; ++k) each[k].turn(last[k]);
  }
};

template <class Step>
struct StepConstants {
  float value[Step::kConstants];
};

// The constants of a thread's neurons and the sums of their gradients. These are the same for all.
template <class Step, int count, bool own>
struct Constants {
  const Arguments& a;

  TGO_HD Constants(const Arguments& a, int64_t) : a(a) {}
  TGO_HD StepConstants<Step> front() const {
    StepConstants<Step> n;
    TGO_UNROLL for (int k = 0; k < Step::kConstants; ++k) n.value[k] = a.numbers[k];
    return n;
  }
  TGO_HD void turn() {}
  TGO_HD void add(const float*) {}
  TGO_HD void at(int64_t, StepConstants<Step>*) const {}
  TGO_HD void add_at(int64_t, int64_t, float* const*, float*) const {}
};

// Each neuron may have its own: those of a table's columns.
template <class Step, int count>
struct Constants<Step, count, true> {
  const Arguments& a;
  const int64_t column;
  InTurn<count> rows[Step::kConstants], sums[Step::kConstants];

  TGO_HD Constants(const Arguments& a, int64_t column) : a(a), column(column) {
    TGO_UNROLL for (int k = 0; k < Step::kConstants; ++k) {
      rows[k].load_or_fill(a.own[k], column, a.numbers[k]);
      sums[k].fill(0.f);
    }
  }
  TGO_HD StepConstants<Step> front() const {
    StepConstants<Step> n;
    TGO_UNROLL for (int k = 0; k < Step::kConstants; ++k) n.value[k] = rows[k].front();
    return n;
  }
  TGO_HD void turn() { TGO_UNROLL for (auto& row : rows) row.turn(); }
  TGO_HD void add(const float g[Step::kConstants]) {
    TGO_UNROLL for (int k = 0; k < Step::kConstants; ++k) sums[k].turn(sums[k].front() + g[k]);
  }
  TGO_HD void store_sums(float* const to[]) const {
    TGO_UNROLL for (int k = 0; k < Step::kConstants; ++k)
      if (to[k] && !(a.timed >> k & 1)) sums[k].store(to[k] + column);
  }

  // Constants with a time axis, of the one neuron that a thread then has, in step t; and their gradients, of neuron m.
  TGO_HD void at(int64_t t, StepConstants<Step>* n) const {
    TGO_UNROLL for (int k = 0; k < Step::kConstants; ++k)
      if (a.timed >> k & 1) n->value[k] = a.own[k][t * a.columns + column];
  }
  TGO_HD void add_at(int64_t t, int64_t m, float* const to[], const float g[Step::kConstants]) const {
    TGO_UNROLL for (int k = 0; k < Step::kConstants; ++k)
      if (to[k] && a.timed >> k & 1) {
        float* const sum = to[k] + t * a.columns + column;
        *sum = m == column ? g[k] : *sum + g[k];
      }
  }
};

// Where each neuron's sequence ends, if they end: from that step of a span on, it rests.
template <int count, bool any>
struct Ends {
  TGO_HD Ends(const Arguments&, int64_t) {}
  TGO_HD int in_span(int64_t, int end) const { return end; }
  TGO_HD void turn() {}
};
template <int count>
struct Ends<count, true> {
  InTurn<count, int32_t> lengths;

  TGO_HD Ends(const Arguments& a, int64_t m) { lengths.load_or_fill(a.lengths, m, INT32_MAX); }
  TGO_HD int in_span(int64_t t, int end) const {
    const int64_t left = lengths.front() - t;
    return left >= end ? end : left < 0 ? 0 : int(left);
  }
  TGO_HD void turn() { lengths.turn(); }
};

// `four`: T = 4 from rest, the noise begins with a Philox block, and no gradient enters or leaves by the state. It is
// the usual call, and needs far fewer registers. `own`: neurons may have constants of their own.
template <class Step_, class S, int count, Kind kind, bool four, bool own, Curve curve>
struct Walk {
  static constexpr int kCount = count, kInputs = Step_::kInputs, kStates = Step_::kStates;
  static constexpr int kConstants = Step_::kConstants;
  static constexpr bool kFour = four, kOwn = own, kAny = kind == Kind::kAny, kNoisy = kind != Kind::kQuiet;
  static constexpr bool kWide = count > 1;  // the order of memory is the logical one, and time outermost
  static constexpr Curve kCurve = curve;
  using Step = Step_;
  using F = Spiking<Flags<kind, curve>, Step::kSpikes>;
  using C = Constants<Step, count, own>;
  using V = States<count, kStates>;
  using Values = Row<S, count>;

  const Arguments& a;
  const int64_t m, at;
  const bool draws;
  const int phase;      // steps by which the first span begins before step 0
  const int64_t index;  // of the first in the logical order, as the noise knows it

  TGO_HD Walk(const Arguments& a, int64_t m)
      : a(a), m(m), at(kWide ? m : a.place.offset(m)),
        draws(kNoisy && (kind == Kind::kUsual || a.firing.noise != Noise::kNone)),
        phase(draws && !four ? int(a.noise_step % kSpan) : 0), index(draws && !kWide ? a.place.logical(m) : m) {}

  TGO_HD int64_t spans() const { return four ? 1 : (a.place.steps + phase + kSpan - 1) / kSpan; }
  TGO_HD int64_t begin_of(int64_t span) const { return four ? 0 : span * kSpan - phase; }
  // Which of the steps t .. t + 3 there are.
  TGO_HD int first(int64_t t) const { return !four && t < 0 ? int(-t) : 0; }
  TGO_HD int last(int64_t t) const { return !four && a.place.steps - t < kSpan ? int(a.place.steps - t) : kSpan; }

  // How many checkpoints there are: the k-th, from 1, is what the states are before span k * kSpansBetween.
  TGO_HD int64_t checkpoints() const { return (a.place.steps - 1) / kCheckpointEvery; }
  TGO_HD int64_t checkpoint(int64_t k) const { return (k - 1) * kStates * a.place.neurons; }

  // f(j, lane, z) of each neuron in turn: it lies in that lane of the words at the front, z is its noise in the four
  // steps from t. Then turn(), where these words are done. More than a pair at once would not fit into 64 registers.
  template <class Neuron, class Turn>
  TGO_HD void for_neurons(int64_t t, const Neuron& f, const Turn& turn) const {
    constexpr int kPair = kWide ? 2 : 1;
    [[maybe_unused]] constexpr int kAtOnce = own || kAny ? 1 : 2;
    TGO_IN_TURN for (int j = 0; j < count; j += kPair) {
      uint32_t words[4] = {};
      if (draws) draw(index + j, uint32_t((a.noise_step + t) / kSpan), words);
      TGO_AT_ONCE(kAtOnce) for (int i = 0; i < kPair; ++i) {
        float z[kSpan] = {};
        if (draws) {
          two_normals<Exact, float>(words[0], &z[0], &z[1]);
          two_normals<Exact, float>(words[1], &z[2], &z[3]);
          words[0] = words[2], words[1] = words[3];
        }
        f(j + i, i % Values::kLanes, z);
        if (i % Values::kLanes == Values::kLanes - 1) turn();
      }
    }
  }

  // Two words of `first` and two of the other neuron of its pair.
  TGO_HD void draw(int64_t first, uint32_t block, uint32_t words[4]) const {
    // Read anew in every span, or else the keys of all rounds are kept for the next one, in twenty registers.
    uint64_t keys[2 * kRounds], of_both[4][1];
    philox_keys(uint64_t(*static_cast<const volatile int64_t*>(a.seed)), keys);
    const uint64_t pair = uint64_t(first) / 2, low[1] = {uint32_t(pair)}, high[1] = {pair >> 32};
    philox<ScalarLanes, 1>(keys, low, high, uint64_t(block), of_both);
    TGO_UNROLL for (int i = 0; i < 4; ++i)
      words[i] = uint32_t(!kWide && first % 2 ? of_both[(i + 2) % 4][0] : of_both[i][0]);
  }

  // Rows t + begin .. t + end - 1.
  TGO_HD void load(const void* from, int64_t t, int begin, int end, Values rows[kSpan]) const {
    TGO_UNROLL for (int i = 0; i < kSpan; ++i)
      if (begin <= i && i < end) rows[i].load(static_cast<const S*>(from) + at + (t + i) * a.place.inner);
  }
  TGO_HD void store(void* to, int64_t t, int begin, int end, const Values rows[kSpan]) const {
    TGO_UNROLL for (int i = 0; i < kSpan; ++i)
      if (begin <= i && i < end) rows[i].store(static_cast<S*>(to) + at + (t + i) * a.place.inner);
  }
  TGO_HD void load_inputs(int64_t t, int begin, int end, Values inputs[kInputs][kSpan]) const {
    TGO_UNROLL for (int k = 0; k < kInputs; ++k) load(a.inputs[k], t, begin, end, inputs[k]);
  }

  // Of neuron j alone, where registers for its neighbours are not to be had.
  TGO_HD void load_one(const void* from, int64_t t, int begin, int end, int j, float values[kSpan]) const {
    TGO_UNROLL for (int i = 0; i < kSpan; ++i)
      if (begin <= i && i < end) {
        Row<S, 1> value;
        value.load(static_cast<const S*>(from) + at + (t + i) * a.place.inner + j);
        values[i] = value.front(0);
      }
  }

  static TGO_HD void turn(Values rows[kSpan]) { TGO_UNROLL for (int i = 0; i < kSpan; ++i) rows[i].turn(); }
  static TGO_HD void turn_inputs(Values inputs[kInputs][kSpan]) {
    TGO_UNROLL for (int k = 0; k < kInputs; ++k) turn(inputs[k]);
  }
  static TGO_HD void fronts(const Values inputs[kInputs][kSpan], int i, int lane, float x[kInputs]) {
    TGO_UNROLL for (int k = 0; k < kInputs; ++k) x[k] = inputs[k][i].front(lane);
  }
};

}  // namespace tgo::cuda
