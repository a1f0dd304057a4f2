// From a call's arguments to the kernel that serves it. A device runs Bodies: the CUDA runtime's, or the tests' host.
#pragma once

#include <utility>

#include "lif.h"

namespace tgo::cuda {

// 16 bytes of neighbours in a row.
template <class S>
constexpr int kWide = 16 / sizeof(S);

struct Form {
  Storage storage;
  bool wide;  // rows can be moved 16 bytes at a time
  bool noisy;
  bool four;  // see lif.h
  Curve curve;
};

template <template <class, int, bool, bool, Curve> class Body, class S, int count, Curve curve, class Device>
void run_count(const Form& form, Device&& device) {
  if (form.four)
    form.noisy ? device.template operator()<Body<S, count, true, true, curve>>()
               : device.template operator()<Body<S, count, false, true, curve>>();
  else
    form.noisy ? device.template operator()<Body<S, count, true, false, curve>>()
               : device.template operator()<Body<S, count, false, false, curve>>();
}

template <template <class, int, bool, bool, Curve> class Body, class S, Curve curve, class Device>
void run_form(const Form& form, Device&& device) {
  form.wide ? run_count<Body, S, kWide<S>, curve>(form, device) : run_count<Body, S, 1, curve>(form, device);
}

template <template <class, int, bool, bool, Curve> class Body, Curve curve, class Device>
void run_storage(const Form& form, Device&& device) {
  switch (form.storage) {
    case Storage::kFloat: return run_form<Body, float, curve>(form, device);
    case Storage::kHalf: return run_form<Body, Half, curve>(form, device);
    case Storage::kBFloat16: return run_form<Body, BFloat16, curve>(form, device);
  }
}

template <class Device>
void run_forward(const Form& form, Device&& device) {
  run_storage<ForwardBody, kLorentz>(form, device);  // the forward has no use for the curve
}

template <class Device>
void run_backward(const Form& form, Device&& device) {
  [&]<int... curve>(std::integer_sequence<int, curve...>) {
    ((form.curve == curve ? run_storage<BackwardBody, Curve(curve)>(form, device) : void()), ...);
  }(std::make_integer_sequence<int, kCurves>());
}

}  // namespace tgo::cuda
