// A block of neurons through some steps, and back. Part of kernels_impl.h.

namespace tgo::cpu::TGO_ISA {
namespace {

constexpr int kSpan = kStepsPerBlock;  // steps whose states and membranes stay in registers
constexpr uint32_t kAllOwn = ~0u, kUsualOwn = 15, kNormOwn = 6;  // decay, gain, leak and threshold; gain and leak

// What a kernel is compiled for: the neuron's step, what rows are stored in, what is known of the flags, and which
// constants neurons may have of their own. That for all of these is also the one for sequences that end, for constants
// with a time axis, and for the few neurons that do not fill the vectors of another.
template <class NeuronStep, class Stored, class KnownFlags, uint32_t own_bits>
struct Form {
  using Step = NeuronStep;
  using S = Stored;
  using Flags = Spiking<KnownFlags, Step::kSpikes>;
  static constexpr uint32_t own = own_bits;
  static constexpr bool rare = own == kAllOwn;
  static constexpr bool streams = std::is_same_v<S, float>;  // whether rows can be written past the caches
  // Vectors of neurons side by side: each waits for its own last step, so that AVX2's need more, though they find no
  // registers.
  static constexpr int side = sizeof(F) == 32 && !own ? 4 : 2;
};

// f(j, side, count) for the neurons from j on: vectors side by side, and by the kernel for rare calls the few that are
// left, of at most so many neurons each. The first that is not done yet.
template <class Form, class Body>
TGO_HD int64_t for_groups(int64_t j, int64_t len, const Body& body) {
  constexpr int side = Form::side;
  for (; j + side * kLanes <= len; j += side * kLanes) body(j, std::integral_constant<int, side>(), Whole());
  if constexpr (Form::rare)
    for (; j < len; j += kLanes) body(j, std::integral_constant<int, 1>(), j + kLanes < len ? kLanes : len - j);
  return j;
}

// What forward and backward have in common.
template <class Form>
struct Span {
  using Step = typename Form::Step;
  using S = typename Form::S;

  const typename Form::Flags& f;
  const Work& b;
  F numbers[Step::kConstants];

  Span(const typename Form::Flags& f, const Work& b) : f(f), b(b) {
    for (int k = 0; k < Step::kConstants; ++k) numbers[k] = splat<F>(b.numbers[k]);
  }

  template <class Count>
  TGO_HD void constants(int64_t j, Count count, F to[Step::kConstants]) const {
    TGO_UNROLL for (int k = 0; k < Step::kConstants; ++k)
      to[k] = (Form::own >> k & 1) && b.own[k] ? load(b.own[k] + j, count) : numbers[k];
  }

  // Those of step i, of which some may have a time axis.
  template <class Count>
  TGO_HD const F* constants_at(int i, int64_t j, Count count, const F c[], F now[]) const {
    if (!Form::rare || !b.timed) return c;
    TGO_UNROLL for (int k = 0; k < Step::kConstants; ++k)
      now[k] = b.timed >> k & 1 ? load(b.own[k] + (b.t + i) * b.columns + j, count) : c[k];
    return now;
  }

  template <class Count>
  TGO_HD void states(int64_t j, Count count, F to[Step::kStates]) const {
    TGO_UNROLL for (int k = 0; k < Step::kStates; ++k)
      to[k] = b.before[k] ? load(b.before[k] + j, count) : splat<F>(b.rests[k]);
  }

  template <class Count>
  TGO_HD F normal(int i, int64_t j, Count count) const {
    return f.noise == Noise::kNone ? F{} : load(b.xi[i] + j, count);
  }

  // What is read next, into the caches: once a line of them, where the noise has not done it.
  TGO_HD void fetch_next(const void* row, int64_t j) const {
    if (f.noise == Noise::kNone) fetch(static_cast<const S*>(row) + j + b.ahead);
  }
  TGO_HD void fetch_next_to_write(const void* row, int64_t j) const {
    fetch_to_write(static_cast<const S*>(row) + j + b.ahead);
  }

  // The states through step i.
  template <class Count>
  TGO_HD void step(int i, int64_t j, Count count, const F c[], F state[], Fired<F>* found, F* after,
                   bool fetches) const {
    F x[Step::kInputs], before[Step::kStates], now[Step::kConstants];
    TGO_UNROLL for (int k = 0; k < Step::kInputs; ++k) {
      if (fetches) fetch_next(b.inputs[k][i], j);
      x[k] = load_row<S>(b.inputs[k][i], j, count);
    }
    TGO_UNROLL for (int k = 0; k < Step::kStates; ++k) before[k] = state[k];
    Step::step(state, x, constants_at(i, j, count, c, now), f, normal(i, j, count), found);
    *after = state[0];
    if constexpr (Form::rare)
      TGO_UNROLL for (int k = 0; k < Step::kStates; ++k) state[k] = going_on(i, j, count, state[k], before[k]);
  }

  // `value` of the neurons whose sequences have not ended at step i, and `otherwise` of others.
  template <class Count>
  TGO_HD F going_on(int i, int64_t j, Count count, F value, F otherwise) const {
    if (!Form::rare || !b.lengths) return value;
    return load<Int<F>>(b.lengths + j, count) > int32_t(b.t + i) ? value : otherwise;
  }
};

// Whether the g-th vector of those side by side is the first in a line of the caches.
constexpr bool begins_line(int g) { return g * sizeof(F) % 64 == 0; }

#define TGO_SIDE(g) TGO_UNROLL for (int g = 0; g < side; ++g)

// f(i) for the first steps of a span, and in the other direction: side by side in the code, so that what they need stays
// in registers, but where a kernel is for rare calls, and would be four times as large.
template <class Form, class Body>
TGO_HD void for_steps(int count, const Body& f) {
  if constexpr (Form::rare) {
    TGO_IN_TURN for (int i = 0; i < count; ++i) f(i);
  } else {
    TGO_UNROLL for (int i = 0; i < kSpan; ++i) if (i < count) f(i);
  }
}
template <class Form, class Body>
TGO_HD void for_steps_back(int count, const Body& f) {
  if constexpr (Form::rare) {
    TGO_IN_TURN for (int i = count - 1; i >= 0; --i) f(i);
  } else {
    TGO_UNROLL for (int i = kSpan - 1; i >= 0; --i) if (i < count) f(i);
  }
}

// Flags under which the surrogate is known already.
template <class Flags>
struct Sloped : Flags {
  F z;

  Sloped(const Flags& f, F z) : Flags(f), z(z) {}
  TGO_HD F slope(F) const { return z; }
};

// The surrogates of distances, in their place; in a loop of its own, so that the curve is looked up once.
template <class Flags>
TGO_HD void to_slopes(const Flags& f, F d[], int count) {
  const auto with = [&]<int curve>() TGO_INLINE {
    if (f.curve == curve)
      for (int i = 0; i < count; ++i) d[i] = surrogate<Curve(curve)>(d[i], f.curve_height, f.curve_scale);
  };
  [&]<int... curve>(std::integer_sequence<int, curve...>) TGO_INLINE {
    (with.template operator()<curve>(), ...);
  }(std::make_integer_sequence<int, kCurves>());
}

template <class Form>
TGO_HD int64_t forward_from(int64_t j, const Any& any, const ForwardWork& b, Totals* totals, bool past) {
  using Step = typename Form::Step;
  using S = typename Form::S;
  const typename Form::Flags f(any);
  const Span<Form> span(f, b);
  F fired{}, neighbors{};  // exact: at most 2^24 a lane
  Doubles penalty[2] = {};
  j = for_groups<Form>(j, b.len, [&](int64_t first, auto sides, auto count) TGO_INLINE {
    constexpr int side = decltype(sides)::value;
    F state[side][Step::kStates], c[side][Step::kConstants];
    TGO_SIDE(g) span.states(first + g * kLanes, count, state[g]), span.constants(first + g * kLanes, count, c[g]);
    for_steps<Form>(b.steps, [&](int i) TGO_INLINE { TGO_SIDE(g) {
      const int64_t j = first + g * kLanes;
      Fired<F> found;
      F after;
      if (!past && begins_line(g)) span.fetch_next_to_write(b.spikes[i], j);
      span.step(i, j, count, c[g], state[g], &found, &after, begins_line(g));
      // Lanes past the row, or a sequence's end, count nothing.
      const F one = Form::rare ? span.going_on(i, j, count, load(kOnes, count), F{}) : splat<F>(1.f);
      const F spike = spike_of(found, f, one);
      store_row<S, true>(b.spikes[i], j, spike, count, past);
      fired += count_of(found, f, spike, one);
      if (f.membrane != Membrane::kNone) {
        const F membrane = membrane_of(found, after, f);
        store_row<S>(b.membrane[i], j, Form::rare ? (one > 0.f ? membrane : F{}) : membrane, count);
      }
      if (f.guard) {
        const F distance = distance_of(found.h, found, f), term = guard_term(distance, f);
        const F counted = Form::rare ? (one > 0.f ? term : F{}) : term;
        HalfF halves[2];
        memcpy(halves, &counted, sizeof(counted));
        penalty[0] += Widen()(halves[0]);
        penalty[1] += Widen()(halves[1]);
        neighbors += absolute(distance) < f.guard_margin ? one : F{};
      }
    } });
    TGO_SIDE(g) TGO_UNROLL for (int k = 0; k < Step::kStates; ++k) {
      const int64_t j = first + g * kLanes;
      store_row<float>(b.after[k], j, state[g][k], count, past && b.after_past_caches);
    }
  });
  totals->fired += int64_t(sum(fired));
  totals->neighbors += int64_t(sum(neighbors));
  totals->penalty += sum(penalty[0] + penalty[1]);
  return j;
}

// What is left of a block, and all of it in rare calls, where each store asks whether it goes past the caches.
template <class Step, class S>
__attribute__((noinline)) void forward_rest(int64_t from, const Any& any, const ForwardWork& b, Totals* totals) {
  using Rare = Form<Step, S, Any, kAllOwn>;
  forward_from<Rare>(from, any, b, totals, Rare::streams && b.past_caches);
}

template <class Form>
void forward(const Any& any, const ForwardWork& b, Totals* totals) {
  int64_t done = 0;
  if constexpr (!Form::rare)
    done = Form::streams && b.past_caches ? forward_from<Form>(0, any, b, totals, Form::streams)
                                          : forward_from<Form>(0, any, b, totals, false);
  if (done < b.len) forward_rest<typename Form::Step, typename Form::S>(done, any, b, totals);
}

// Recomputes the steps and walks back, a group of neurons after the other. What a span of four steps needs stays in
// registers; for a second one the group is taken to its first step once more.
template <class Form>
TGO_HD int64_t backward_from(int64_t j, const Any& any, const BackwardWork& b, bool past) {
  using Step = typename Form::Step;
  using S = typename Form::S;
  const typename Form::Flags f(any);
  const Span<Form> span(f, b);
  return for_groups<Form>(j, b.len, [&](int64_t first, auto sides, auto count) TGO_INLINE {
    constexpr int side = decltype(sides)::value;
    F before[kSpan + 1][side][Step::kStates], c[side][Step::kConstants], g_state[side][Step::kStates];
    F sums[side][Step::kConstants] = {};
    Fired<F> found[kSpan][side];
    F slopes[kSpan][side], g_x[kSpan][side][Step::kInputs];
    TGO_SIDE(g) span.constants(first + g * kLanes, count, c[g]);
    TGO_SIDE(g) TGO_UNROLL for (int k = 0; k < Step::kStates; ++k)
      g_state[g][k] = b.g_after[k] ? load(b.g_after[k] + first + g * kLanes, count) : F{};
    for (int from = b.steps > kSpan ? kSpan : 0; from >= 0; from -= kSpan) {
      TGO_SIDE(g) span.states(first + g * kLanes, count, before[0][g]);
      if (from)
        for_steps<Form>(kSpan, [&](int i) TGO_INLINE { TGO_SIDE(g) {
          F after;
          span.step(i, first + g * kLanes, count, c[g], before[0][g], &found[0][g], &after, false);
        } });
      const int steps = b.steps - from < kSpan ? b.steps - from : kSpan;
      for_steps<Form>(steps, [&](int i) TGO_INLINE { TGO_SIDE(g) {
        F after;
        TGO_UNROLL for (int k = 0; k < Step::kStates; ++k) before[i + 1][g][k] = before[i][g][k];
        span.step(from + i, first + g * kLanes, count, c[g], before[i + 1][g], &found[i][g], &after, begins_line(g));
        slopes[i][g] = distance_of(f.surrogate_at_h ? found[i][g].h : found[i][g].u, found[i][g], f);
      } });
      to_slopes(f, slopes[0], side * steps);
      for_steps_back<Form>(steps, [&](int i) TGO_INLINE { TGO_SIDE(g) {
        const int64_t j = first + g * kLanes, t = from + i;
        F x[Step::kInputs], now[Step::kConstants], g_c[Step::kConstants], g_next[Step::kStates];
        TGO_UNROLL for (int k = 0; k < Step::kInputs; ++k) {
          x[k] = load_row<S>(b.inputs[k][t], j, count);
          if (!past && begins_line(g)) span.fetch_next_to_write(b.g_inputs[k][t], j);
        }
        TGO_UNROLL for (int k = 0; k < Step::kStates; ++k) g_next[k] = g_state[g][k];
        if (begins_line(g)) span.fetch_next(b.g_spikes[t], j);
        const F g_m = f.membrane == Membrane::kNone ? F{} : load_row<S>(b.g_membrane[t], j, count);
        const F* const n = span.constants_at(t, j, count, c[g], now);
        Step::step_back(before[i][g], x, n, found[i][g], Sloped(f, slopes[i][g]), span.normal(t, j, count),
                        load_row<S>(b.g_spikes[t], j, count), g_m, g_state[g], g_x[i][g], g_c);
        TGO_UNROLL for (int k = 0; k < Step::kStates; ++k)
          g_state[g][k] = span.going_on(t, j, count, g_state[g][k], g_next[k]);
        if constexpr (Form::own != 0)
          TGO_UNROLL for (int k = 0; k < Step::kConstants; ++k)
            if ((Form::own >> k & 1) && b.g_own[k]) {
              const F term = span.going_on(t, j, count, g_c[k], F{});
              sums[g][k] += term;
              if (Form::rare && b.timed >> k & 1)
                add(b.g_own[k] + (b.t + t) * b.columns + j, term, count, b.first_neurons);
            }
      } });
      // Not before: a load waits for stores at the same place of another page.
      for_steps<Form>(steps, [&](int i) TGO_INLINE { TGO_SIDE(g) TGO_UNROLL for (int k = 0; k < Step::kInputs; ++k) {
        const int64_t j = first + g * kLanes, t = from + i;
        store_row<S>(b.g_inputs[k][t], j, span.going_on(t, j, count, g_x[i][g][k], F{}), count, past);
      } });
    }
    TGO_SIDE(g) {
      const int64_t j = first + g * kLanes;
      TGO_UNROLL for (int k = 0; k < Step::kStates; ++k)
        if (b.g_before[k]) store(b.g_before[k] + j, g_state[g][k], count);
      TGO_UNROLL for (int k = 0; k < Step::kConstants; ++k)
        if (float* to = Form::own >> k & 1 ? b.g_own[k] : nullptr)
          if (!Form::rare || !(b.timed >> k & 1)) add(to + j, sums[g][k], count, b.first);
    }
  });
}

template <class Step, class S>
__attribute__((noinline)) void backward_rest(int64_t from, const Any& any, const BackwardWork& b) {
  using Rare = Form<Step, S, Any, kAllOwn>;
  backward_from<Rare>(from, any, b, Rare::streams && b.past_caches);
}

template <class Form>
void backward(const Any& any, const BackwardWork& b) {
  int64_t done = 0;
  if constexpr (!Form::rare)
    done = Form::streams && b.past_caches ? backward_from<Form>(0, any, b, Form::streams)
                                          : backward_from<Form>(0, any, b, false);
  if (done < b.len) backward_rest<typename Form::Step, typename Form::S>(done, any, b);
}

}  // namespace
}  // namespace tgo::cpu::TGO_ISA
