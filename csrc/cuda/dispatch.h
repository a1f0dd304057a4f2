// From a call's arguments to the kernel that serves it. A device runs Bodies: the CUDA runtime's, or the tests' host.
#pragma once

#include <utility>

#include "lif.h"

namespace tgo::cuda {

// 16 bytes of neighbours in a row.
template <class S>
constexpr int kWide = 16 / sizeof(S);
constexpr int kWideOwn = 4;  // neurons with constants of their own: those of eight would not fit into the registers

struct Form {
  Storage storage;
  bool wide;  // rows can be moved so
  Noise noise;
  bool four;  // see lif.h
  bool own;   // constants: see lif.h
  Curve curve;
};

template <template <class, int, Noise, bool, bool, Curve> class Body, class S, int count, bool four, bool own,
          Curve curve, class Device>
void run_count(const Form& form, Device&& device) {
  if (form.noise == Noise::kNone) return device.template operator()<Body<S, count, Noise::kNone, four, own, curve>>();
  if constexpr (four)
    if (form.noise == Noise::kUsual)
      return device.template operator()<Body<S, count, Noise::kUsual, four, own, curve>>();
  device.template operator()<Body<S, count, Noise::kAny, four, own, curve>>();
}

template <template <class, int, Noise, bool, bool, Curve> class Body, class S, bool own, Curve curve, class Device>
void run_form(const Form& form, Device&& device) {
  if constexpr (own)
    form.wide ? run_count<Body, S, kWideOwn, false, true, curve>(form, device)
              : run_count<Body, S, 1, false, true, curve>(form, device);
  else if (form.four)
    form.wide ? run_count<Body, S, kWide<S>, true, false, curve>(form, device)
              : run_count<Body, S, 1, true, false, curve>(form, device);
  else
    form.wide ? run_count<Body, S, kWide<S>, false, false, curve>(form, device)
              : run_count<Body, S, 1, false, false, curve>(form, device);
}

template <template <class, int, Noise, bool, bool, Curve> class Body, bool own, Curve curve, class Device>
void run_storage(const Form& form, Device&& device) {
  switch (form.storage) {
    case Storage::kFloat: return run_form<Body, float, own, curve>(form, device);
    case Storage::kHalf: return run_form<Body, Half, own, curve>(form, device);
    case Storage::kBFloat16: return run_form<Body, BFloat16, own, curve>(form, device);
  }
}

// The forward has no use for the curve.
template <class Device>
void run_forward(const Form& form, Device&& device) {
  form.own ? run_storage<ForwardBody, true, kLorentz>(form, device)
           : run_storage<ForwardBody, false, kLorentz>(form, device);
}

template <class Device>
void run_backward(const Form& form, Device&& device) {
  if (form.own) return run_storage<BackwardBody, true, kAnyCurve>(form, device);
  [&]<int... curve>(std::integer_sequence<int, curve...>) {
    ((form.curve == curve ? run_storage<BackwardBody, false, Curve(curve)>(form, device) : void()), ...);
  }(std::make_integer_sequence<int, kCurves>());
}

}  // namespace tgo::cuda
