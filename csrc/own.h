// Neurons of users. tgo_kernels/own.py compiles them where they are used, and makes them known while the process runs.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>

#include "neurons.h"

namespace tgo {

struct OwnNeuron {
  Shape shape;
  const void* kernels;  // of the CPU: cpu::NeuronKernels
};

class OwnNeurons {
 public:
  static void add(int64_t number, OwnNeuron neuron) {
    const std::lock_guard lock(mutex());
    known().insert_or_assign(number, neuron);
  }

  // Null where there is none; what was found stays where it is.
  static const OwnNeuron* find(int64_t number) {
    const std::lock_guard lock(mutex());
    const auto found = known().find(number);
    return found == known().end() ? nullptr : &found->second;
  }

 private:
  static std::mutex& mutex() {
    static std::mutex one;
    return one;
  }
  static std::map<int64_t, OwnNeuron>& known() {
    static std::map<int64_t, OwnNeuron> all;
    return all;
  }
};

}  // namespace tgo
