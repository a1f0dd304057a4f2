// What a thread holds of neighbouring neurons, in its registers.
#pragma once

#include "../storage.h"

namespace tgo::cuda {

// Neighbours in memory, loaded and stored at once, and taken in turn from the front: a thread's registers cannot be
// indexed, and all neurons at once would not fit into them.
template <class S, int count>
struct Row {
  static constexpr int kLanes = count == 1 ? 1 : int(4 / sizeof(S));  // values in a word
  static constexpr int kWords = count / kLanes;
  struct alignas(sizeof(S) * count) Memory {
    std::conditional_t<count == 1, S, uint32_t> word[kWords];
  };
  uint32_t word[kWords];

  TGO_HD void load(const S* from) {
    const Memory memory = *reinterpret_cast<const Memory*>(from);
    TGO_UNROLL for (int i = 0; i < kWords; ++i) word[i] = bits(memory.word[i]);
  }
  TGO_HD void store(S* to) const {
    Memory memory;
    TGO_UNROLL for (int i = 0; i < kWords; ++i) put(word[i], &memory.word[i]);
#if defined(__CUDA_ARCH__)
    if constexpr (kWords == 4) {  // of the assignment below the compiler makes a store for each word
      asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(word[0]), "r"(word[1]), "r"(word[2]),
                   "r"(word[3])
                   : "memory");
      return;
    }
    if constexpr (kWords == 2) {
      asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(word[0]), "r"(word[1]) : "memory");
      return;
    }
#endif
    *reinterpret_cast<Memory*>(to) = memory;
  }

  TGO_HD float front(int lane) const { return widened<S, float>(word[0] >> (8 * sizeof(S) * lane) % 32); }

  TGO_HD void put_front(float x, int lane) {
    const int shift = 8 * sizeof(S) * lane % 32;
    const uint32_t mask = sizeof(S) == 4 ? ~0u : 0xFFFFu;
    word[0] = (word[0] & ~(mask << shift)) | narrowed<S>(x) << shift;
  }

  // The word at the front goes to the end.
  TGO_HD void turn() {
    const uint32_t front = word[0];
    TGO_UNROLL for (int i = 1; i < kWords; ++i) word[i - 1] = word[i];
    word[kWords - 1] = front;
  }

 private:
  static TGO_HD uint32_t bits(uint32_t w) { return w; }
  static TGO_HD uint32_t bits(float x) { return bit_cast<uint32_t>(x); }
  template <class Narrow>
  static TGO_HD uint32_t bits(Narrow x) {
    return x.bits;
  }
  static TGO_HD void put(uint32_t w, uint32_t* to) { *to = w; }
  template <class Value>
  static TGO_HD void put(uint32_t w, Value* to) {
    *to = value<Value>(w);
  }
  template <class Value>
  static TGO_HD Value value(uint32_t w) {
    if constexpr (sizeof(Value) == 4)
      return bit_cast<Value>(w);
    else
      return {uint16_t(w)};
  }
};

// One number of each neuron of a thread, in the same turn as their values.
template <int count, class V = float>
struct InTurn {
  static constexpr int kQuad = count < 4 ? count : 4;  // moved at once
  V value[count];

  TGO_HD void fill(V with) { TGO_UNROLL for (int j = 0; j < count; ++j) value[j] = with; }

  TGO_HD void load(const V* from) {
    TGO_UNROLL for (int j = 0; j < count; j += kQuad) {
      Row<float, kQuad> quad;
      quad.load(reinterpret_cast<const float*>(from + j));
      TGO_UNROLL for (int i = 0; i < kQuad; ++i) value[j + i] = bit_cast<V>(quad.word[i]);
    }
  }
  TGO_HD void load_or_fill(const V* from, int64_t at, V otherwise) { from ? load(from + at) : fill(otherwise); }

  TGO_HD void store(V* to) const {
    TGO_UNROLL for (int j = 0; j < count; j += kQuad) {
      Row<float, kQuad> quad;
      TGO_UNROLL for (int i = 0; i < kQuad; ++i) quad.word[i] = bit_cast<uint32_t>(value[j + i]);
      quad.store(reinterpret_cast<float*>(to + j));
    }
  }

  TGO_HD V front() const { return value[0]; }
  TGO_HD void turn(V last) {
    TGO_UNROLL for (int j = 1; j < count; ++j) value[j - 1] = value[j];
    value[count - 1] = last;
  }
  TGO_HD void turn() { turn(value[0]); }
};

}  // namespace tgo::cuda
