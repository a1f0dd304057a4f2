// From a call's arguments to the kernel that serves it. A device runs Bodies: the CUDA runtime's, or the tests' host.
#pragma once

#include <utility>

#include "bodies.h"

namespace tgo::cuda {

struct Form {
  int neuron;  // its place in Neurons
  Storage storage;
  Kind kind;
  bool wide;       // rows can be moved so
  bool four, own;  // see Walk
  Curve curve;
};

// How many neurons a thread has at once: 16 bytes of neighbours in a row, fewer where registers would not suffice.
constexpr int widest(bool simple, Kind kind, bool own, int bytes) {
  if (own) return simple && kind != Kind::kAny ? 2 : 1;
  return !simple ? 2 : kind == Kind::kAny ? 4 : 16 / bytes;
}

// Whether a neuron has one state and one input.
constexpr bool simple(int states, int inputs) { return states == 1 && inputs == 1; }

template <template <class> class Body, class Step, class S, Kind kind, bool four, bool own, Curve curve, class Device>
void run_count(const Form& form, Device&& device) {
  constexpr int kCount = widest(simple(Step::kStates, Step::kInputs), kind, own, sizeof(S));
  if (form.wide)
    device.template operator()<Body<Walk<Step, S, kCount, kind, four, own, curve>>>();
  else
    device.template operator()<Body<Walk<Step, S, 1, kind, four, own, curve>>>();
}

template <template <class> class Body, class Step, Kind kind, bool four, bool own, Curve curve, class Device>
void run_storage(const Form& form, Device&& device) {
  switch (form.storage) {
    case Storage::kFloat: return run_count<Body, Step, float, kind, four, own, curve>(form, device);
    case Storage::kHalf: return run_count<Body, Step, Half, kind, four, own, curve>(form, device);
    case Storage::kBFloat16: return run_count<Body, Step, BFloat16, kind, four, own, curve>(form, device);
  }
}

template <template <class> class Body, Kind kind, Curve curve, class Device>
void run_four(const Form& form, Device&& device) {
  if (form.four)
    run_storage<Body, Lif, kind, true, false, curve>(form, device);
  else
    run_storage<Body, Lif, kind, false, false, curve>(form, device);
}

template <template <class> class Body, class Step, Kind kind, class Device>
void run_any_time(const Form& form, Device&& device) {
  if (form.own)
    run_storage<Body, Step, kind, false, true, kAnyCurve>(form, device);
  else
    run_storage<Body, Step, kind, false, false, kAnyCurve>(form, device);
}

constexpr int kWithFirst = 2;  // so many neurons have kernels for calls of kFirst, the others one for all

template <template <class> class Body, class Step, bool has_first, class Device>
void run_kind(const Form& form, Device&& device) {
  if constexpr (has_first)
    if (form.kind == Kind::kFirst) return run_any_time<Body, Step, Kind::kFirst>(form, device);
  run_any_time<Body, Step, Kind::kAny>(form, device);
}

// LIF's kernels for the calls that are many know the curve as well.
template <template <class> class Body, Kind kind, Curve... curves, class Device>
void run_curve(const Form& form, Device&& device) {
  if (form.own)
    run_storage<Body, Lif, kind, false, true, kAnyCurve>(form, device);
  else
    ((form.curve == curves ? run_four<Body, kind, curves>(form, device) : void()), ...);
}

template <template <class> class Body, Curve... curves, class Device>
void run(const Form& form, Device&& device) {
  if (form.kind == Kind::kQuiet) return run_curve<Body, Kind::kQuiet, curves...>(form, device);
  if (form.kind == Kind::kUsual) return run_curve<Body, Kind::kUsual, curves...>(form, device);
  if (form.four) return run_storage<Body, Lif, Kind::kFirst, true, false, kAnyCurve>(form, device);
  [&]<class... Steps, int... k>(House<Steps...>, std::integer_sequence<int, k...>) {
    ((form.neuron == k ? run_kind<Body, Steps, (k < kWithFirst)>(form, device) : void()), ...);
  }(Neurons(), std::make_integer_sequence<int, Neurons::kCount>());
}

// The forward has no use for the curve.
template <class Device>
void run_forward(Form form, Device&& device) {
  form.curve = kLorentz;
  run<ForwardBody, kLorentz>(form, device);
}

template <class Device>
void run_backward(const Form& form, Device&& device) {
  [&]<int... curve>(std::integer_sequence<int, curve...>) {
    run<BackwardBody, Curve(curve)...>(form, device);
  }(std::make_integer_sequence<int, kCurves>());
}

}  // namespace tgo::cuda
