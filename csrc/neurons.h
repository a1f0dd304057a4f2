// What the engines know of neurons, by their numbers in a call's settings (tgo_kernels/neurons).
#pragma once

namespace tgo {

constexpr int kMaxStates = 3, kMaxInputs = 3, kMaxConstants = 16;

struct Shape {
  int states, inputs, constants;
};

template <class... Steps>
struct House {
  static constexpr int kCount = sizeof...(Steps);
  static constexpr Shape shapes[] = {{Steps::kStates, Steps::kInputs, Steps::kConstants}...};
  static_assert(((Steps::kStates <= kMaxStates && Steps::kInputs <= kMaxInputs && Steps::kConstants <= kMaxConstants) &&
                 ...));
};

}  // namespace tgo

#include "steps/house.h"
