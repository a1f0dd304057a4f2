// The CUDA kernels' bodies: what one thread does, as functions of the thread, so that the tests run them on the host.
#pragma once

#include "walk.h"

namespace tgo::cuda {

template <class W>
struct ForwardBody {
  using Walk = W;
  using Arguments = Forward;
  using Step = typename W::Step;
  static constexpr int kBlocks = W::kFour ? 8 : W::kAny || W::kOwn ? 4 : 7;

  static TGO_HD void run(const Forward& a, const typename W::F& f, int64_t m, typename W::C* constants,
                         BlockTotals* totals) {
    const W w(a, m);
    typename W::V v;
    Ends<W::kCount, W::kAny> ends(a, m);
    int fired = 0, neighbors = 0;
    if (W::kFour)
      TGO_UNROLL for (int k = 0; k < W::kStates; ++k) v.each[k].fill(a.rests[k]);
    else
      v.load(a.states, m, a.rests);
    for (int64_t span = 0; span < w.spans(); ++span) {
      const int64_t t = w.begin_of(span);
      const int begin = w.first(t), end = w.last(t);
      typename W::Values x[W::kInputs][kSpan], membranes[kSpan];
      w.load_inputs(t, begin, end, x);
      float fires = 0, nears = 0;  // a float is counted at once
      const auto one_neuron = [&](int, int lane, const float z[kSpan]) {
        auto n = constants->front();
        const int last = ends.in_span(t, end);
        float states[W::kStates];
        v.front(states);
        TGO_UNROLL for (int i = 0; i < kSpan; ++i)
          if (begin <= i && i < last) {
            float inputs[W::kInputs];
            Fired<float> found;
            W::fronts(x, i, lane, inputs);
            if (W::kAny) constants->at(t + i, &n);
            Step::step(states, inputs, n.value, f, z[i], &found);
            const float spike = spike_of(found, f);
            x[0][i].put_front(spike, lane);
            fires += count_of(found, f, spike);
            if (W::kAny) membranes[i].put_front(membrane_of(found, states[0], f), lane);
            if (f.guard_margin > 0.f) {
              const float distance = distance_of(found.h, found, f);
              totals->penalty += guard_term(distance, f);
              nears += absolute(distance) < f.guard_margin ? 1.f : 0.f;
            }
          } else if (W::kAny) {  // past the end of its sequence
            x[0][i].put_front(0.f, lane);
            membranes[i].put_front(0.f, lane);
          }
        constants->turn();
        ends.turn();
        v.turn(states);
      };
      w.for_neurons(t, one_neuron, [&] {
        W::turn_inputs(x);
        if (W::kAny) W::turn(membranes);
      });
      fired += int(fires);
      neighbors += int(nears);
      w.store(a.spikes, t, begin, end, x[0]);
      if (W::kAny && a.membrane) w.store(a.membrane, t, begin, end, membranes);
      if (!W::kFour && a.checkpoints && (span + 1) % kSpansBetween == 0) {
        const int64_t k = (span + 1) / kSpansBetween;
        if (k <= w.checkpoints()) v.store(a.checkpoints + w.checkpoint(k), m, a.place.neurons);
      }
    }
    v.store(a.finals, m);
    totals->fired += fired;
    totals->neighbors += neighbors;
  }
};

template <class W>
struct BackwardBody {
  using Walk = W;
  using Arguments = Backward;
  using Step = typename W::Step;
  static constexpr bool kExponential = W::kCurve == kAnyCurve || has_exponential(W::kCurve);
  static constexpr bool kMany = W::kInputs > 1 || (W::kOwn && W::kConstants > 6);
  static constexpr int kBlocks = W::kFour ? (kExponential ? 6 : 8) : kMany ? 3 : W::kOwn || W::kStates == 1 ? 4 : 5;

  static TGO_HD void run(const Backward& a, typename W::F f, int64_t m, typename W::C* constants, BlockTotals*) {
    const W w(a, m);
    f.pull = a.g_penalty ? float(double(*a.g_penalty) * a.share) : 0.f;
    typename W::V g_v;
    Ends<W::kCount, W::kAny> ends(a, m);
    constexpr float kZeros[W::kStates] = {};
    if (!W::kFour) g_v.load(a.g_finals, m, kZeros);
    for (int64_t span = w.spans() - 1; span >= 0; --span) {
      const int64_t t = w.begin_of(span);
      const int begin = w.first(t), end = w.last(t);
      typename W::V v;
      if (!W::kFour) recall(f, w, a.checkpoints, span, constants, &ends, &v);
      typename W::Values x[W::kInputs][kSpan], g_s[kSpan] = {};
      w.load_inputs(t, begin, end, x);
      if (a.g_spikes) w.load(a.g_spikes, t, begin, end, g_s);
      const auto one_neuron = [&](int j, int lane, const float z[kSpan]) {
        auto n = constants->front();
        const int last = ends.in_span(t, end);
        Fired<float> found[kSpan];
        float before[kSpan][W::kStates], states[W::kStates], g_states[W::kStates] = {};
        float inputs[W::kInputs], g_m[kSpan] = {}, sums[W::kConstants] = {};
        if (W::kAny && a.g_membrane) w.load_one(a.g_membrane, t, begin, end, j, g_m);
        if (W::kFour) {
          TGO_UNROLL for (int k = 0; k < W::kStates; ++k) states[k] = a.rests[k];
        } else {
          v.front(states);
          g_v.front(g_states);
        }
        TGO_UNROLL for (int i = 0; i < kSpan; ++i)
          if (begin <= i && i < last) {
            W::fronts(x, i, lane, inputs);
            TGO_UNROLL for (int k = 0; k < W::kStates; ++k) before[i][k] = states[k];
            if (W::kAny) constants->at(t + i, &n);
            Step::step(states, inputs, n.value, f, z[i], &found[i]);
          }
        TGO_UNROLL for (int i = kSpan - 1; i >= 0; --i)
          if (begin <= i && i < end) {
            float g_inputs[W::kInputs] = {}, g_n[W::kConstants] = {};
            if (!W::kAny || i < last) {
              W::fronts(x, i, lane, inputs);
              if (W::kAny) constants->at(t + i, &n);
              Step::step_back(before[i], inputs, n.value, found[i], f, z[i], g_s[i].front(lane), g_m[i],
                              g_states, g_inputs, g_n);
              if (W::kOwn) TGO_UNROLL for (int k = 0; k < W::kConstants; ++k) sums[k] += g_n[k];
            }
            if (W::kAny) constants->add_at(t + i, m, a.g_own, g_n);
            TGO_UNROLL for (int k = 0; k < W::kInputs; ++k) x[k][i].put_front(g_inputs[k], lane);
          }
        constants->add(sums);
        constants->turn();
        ends.turn();
        if (!W::kFour) {
          v.turn(states);
          g_v.turn(g_states);
        }
      };
      w.for_neurons(t, one_neuron, [&] {
        W::turn_inputs(x);
        W::turn(g_s);
      });
      TGO_UNROLL for (int k = 0; k < W::kInputs; ++k) w.store(a.g_inputs[k], t, begin, end, x[k]);
    }
    if (!W::kFour && a.g_states[0]) g_v.store(a.g_states, m);
  }

  // The states before a span, from the last ones that were saved.
  static TGO_HD void recall(const typename W::F& f, const W& w, const float* checkpoints, int64_t span,
                            typename W::C* constants, Ends<W::kCount, W::kAny>* ends, typename W::V* v) {
    int64_t k = span / kSpansBetween;
    if (k > w.checkpoints()) k = w.checkpoints();
    if (k)
      v->load(checkpoints + w.checkpoint(k), w.m, w.a.place.neurons);
    else
      v->load(w.a.states, w.m, w.a.rests);
    for (int64_t past = k * kSpansBetween; past < span; ++past) {
      const int64_t t = w.begin_of(past);
      const int begin = w.first(t);
      typename W::Values x[W::kInputs][kSpan];
      w.load_inputs(t, begin, kSpan, x);
      const auto one_neuron = [&](int, int lane, const float z[kSpan]) {
        auto n = constants->front();
        const int last = ends->in_span(t, kSpan);
        float states[W::kStates];
        v->front(states);
        TGO_UNROLL for (int i = 0; i < kSpan; ++i)
          if (begin <= i && i < last) {
            float inputs[W::kInputs];
            Fired<float> found;
            W::fronts(x, i, lane, inputs);
            if (W::kAny) constants->at(t + i, &n);
            Step::step(states, inputs, n.value, f, z[i], &found);
          }
        constants->turn();
        ends->turn();
        v->turn(states);
      };
      w.for_neurons(t, one_neuron, [&] { W::turn_inputs(x); });
    }
  }
};

TGO_HD void store_sums(const Forward&, const auto&) {}
TGO_HD void store_sums(const Backward& a, const auto& constants) { constants.store_sums(a.g_own); }

// The groups of one thread of a grid: all that share a table's columns, in turn.
template <class Body>
TGO_HD BlockTotals thread_body(const typename Body::Arguments& a, int64_t thread, int64_t threads) {
  using W = typename Body::Walk;
  BlockTotals totals;
  const typename W::F f(a.firing);
  for (int64_t column = thread * W::kCount; column < a.columns; column += threads * W::kCount) {
    typename W::C constants(a, column);
    if constexpr (W::kOwn) {
      for (int64_t m = column; m < a.place.neurons; m += a.columns) Body::run(a, f, m, &constants, &totals);
      store_sums(a, constants);
    } else {
      Body::run(a, f, column, &constants, &totals);
    }
  }
  return totals;
}

}  // namespace tgo::cuda
