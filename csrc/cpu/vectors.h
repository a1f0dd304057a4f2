// Vectors of neurons: from and to rows as they are stored. Part of kernels_impl.h.

namespace tgo::cpu::TGO_ISA {
namespace {

constexpr int kLanes = sizeof(F) / sizeof(float);

#define TGO_INLINE __attribute__((always_inline))

alignas(64) constexpr float kOnes[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

// Count is the number of floats: a constant for whole vectors, a variable for the last one of a row.
struct Whole {
  constexpr operator int64_t() const { return kLanes; }
};

// f(j, count) for all elements: whole vectors, and the few that are left.
template <class Body>
TGO_HD void for_vectors(int64_t len, const Body& body) {
  int64_t j = 0;
  for (; j + kLanes <= len; j += kLanes) body(j, Whole());
  if (j < len) body(j, len - j);
}

template <class Vector = F, class Value, class Count>
TGO_HD Vector load(const Value* from, Count count) {
  Vector value{};
  memcpy(&value, from, count * sizeof(Value));
  return value;
}

template <class Count>
TGO_HD void store(float* to, F value, Count count) {
  memcpy(to, &value, count * sizeof(float));
}

template <class Count>
TGO_HD void add(float* to, F value, Count count, bool first) {
  store(to, first ? value : load(to, count) + value, count);
}

// Neurons of a row as it is stored.
template <class S, class Count>
TGO_HD F load_row(const void* row, int64_t j, Count count) {
  if constexpr (std::is_same_v<S, float>) return load(static_cast<const float*>(row) + j, count);
  typedef uint16_t Narrow __attribute__((vector_size(sizeof(F) / 2)));
  Narrow bits{};
  memcpy(&bits, static_cast<const S*>(row) + j, count * sizeof(S));
  return widened<S, F>(__builtin_convertvector(bits, Word<F>));
}

// `spike`: 0 or 1, which needs no rounding. `past_caches`: of a row that is not read again soon, and is aligned for it.
template <class S, bool spike = false, class Count>
TGO_HD void store_row(void* row, int64_t j, F value, Count count, bool past_caches = false) {
  S* to = static_cast<S*>(row) + j;
  if constexpr (std::is_same_v<S, float>) {
    if (std::is_same_v<Count, Whole> && past_caches)
      Stream()(to, value);
    else
      store(to, value, count);
  } else {
    typedef uint16_t Narrow __attribute__((vector_size(sizeof(F) / 2)));
    const Word<F> rounded = spike ? narrowed_spike<S>(value) : narrowed<S>(value);
    const Narrow bits = __builtin_convertvector(rounded, Narrow);
    memcpy(to, &bits, count * sizeof(S));
  }
}

// One element as it is stored.
template <class S>
TGO_HD float value_of(S stored) {
  if constexpr (std::is_same_v<S, float>)
    return stored;
  else
    return widened<S, float>(stored.bits);
}

template <class S>
TGO_HD void assign(S* to, float value) {
  if constexpr (std::is_same_v<S, float>)
    *to = value;
  else
    to->bits = uint16_t(narrowed<S>(value));
}

// Into the caches, ahead of its use: rows are too short for the machine to foresee the next.
TGO_HD void fetch(const void* at) { __builtin_prefetch(at, 0, 3); }
TGO_HD void fetch_to_write(const void* at) { __builtin_prefetch(at, 1, 2); }

template <class Vector>
TGO_HD double sum(Vector v) {
  double total = 0;
  for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); ++i) total += v[i];
  return total;
}

}  // namespace
}  // namespace tgo::cpu::TGO_ISA
