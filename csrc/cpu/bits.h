// Few different values as bits: 64 elements at a time to a word of each plane, and back. Part of kernels_impl.h.

namespace tgo::cpu::TGO_ISA {
namespace {

template <class S>
TGO_HD Word<F> load_bits(const S* from) {
  if constexpr (sizeof(S) == sizeof(uint32_t)) {
    return load<Word<F>>(from, Whole());
  } else {
    typedef uint16_t Narrow __attribute__((vector_size(sizeof(F) / 2)));
    return __builtin_convertvector(load<Narrow>(from, Whole()), Word<F>);
  }
}

template <class S>
TGO_HD void store_bits(S* to, Word<F> bits) {
  if constexpr (sizeof(S) == sizeof(uint32_t)) {
    memcpy(to, &bits, sizeof(bits));
  } else {
    typedef uint16_t Narrow __attribute__((vector_size(sizeof(F) / 2)));
    const Narrow narrow = __builtin_convertvector(bits, Narrow);
    memcpy(to, &narrow, sizeof(narrow));
  }
}

// Which of 64 elements equal the code.
template <class S>
TGO_INLINE inline uint64_t where(const S* from, uint32_t code) {
  uint64_t bits = 0;
  TGO_UNROLL
  for (int j = 0; j < kWord; j += kLanes) bits |= uint64_t(Equal::lanes(load_bits(from + j), code)) << j;
  return bits;
}

template <class S, int kPlanes>
int64_t pack_as(const S* from, int64_t words, const Codes& codes, uint64_t* to, int64_t apart) {
  for (int64_t w = 0; w < words; ++w) {
    uint64_t known = 0, plane[kMaxPlanes] = {};
    for (int k = 0; k < codes.size; ++k) {
      const uint64_t found = where(from + w * kWord, codes.of[k]);
      known |= found;
      TGO_UNROLL
      for (int p = 0; p < kPlanes; ++p) plane[p] |= k >> p & 1 ? found : 0;
    }
    if (known != ~uint64_t(0)) return w;
    TGO_UNROLL
    for (int p = 0; p < kPlanes; ++p) to[p * apart + w] = plane[p];
  }
  return words;
}

// The code of each lane: half as many are left by each plane's bit.
template <int kPlanes>
TGO_INLINE inline Word<F> chosen(const Codes& codes, const Word<F> (&set)[kMaxPlanes]) {
  Word<F> left[1 << kPlanes];
  TGO_UNROLL
  for (int k = 0; k < 1 << kPlanes; ++k) left[k] = Word<F>{} + codes.of[k];
  TGO_UNROLL
  for (int p = 0; p < kPlanes; ++p)
    for (int k = 0; k < 1 << (kPlanes - 1 - p); ++k) left[k] = set[p] ? left[2 * k + 1] : left[2 * k];
  return left[0];
}

template <class S, int kPlanes>
void unpack_as(const uint64_t* from, int64_t apart, int64_t words, const Codes& codes, S* to) {
  Word<F> lane;
  for (int j = 0; j < kLanes; ++j) lane[j] = uint32_t(1) << j;
  for (int64_t w = 0; w < words; ++w)
    TGO_UNROLL
    for (int j = 0; j < kWord; j += kLanes) {
      Word<F> set[kMaxPlanes];
      TGO_UNROLL
      for (int p = 0; p < kPlanes; ++p)
        set[p] = ((Word<F>{} + uint32_t(from[p * apart + w] >> j)) & lane) == lane;
      store_bits(to + w * kWord + j, chosen<kPlanes>(codes, set));
    }
}

template <class Body>
auto with_planes(int planes, int64_t size, const Body& f) {
  const auto of = [&]<class S>() {
    switch (planes) {
      case 0: return f.template operator()<S, 0>();
      case 1: return f.template operator()<S, 1>();
      case 2: return f.template operator()<S, 2>();
      default: return f.template operator()<S, 3>();
    }
  };
  return size == sizeof(uint32_t) ? of.template operator()<uint32_t>() : of.template operator()<uint16_t>();
}

int64_t pack(const void* from, int64_t size, int64_t words, const Codes& codes, uint64_t* to, int64_t apart) {
  return with_planes(codes.planes(), size, [&]<class S, int kPlanes>() {
    return pack_as<S, kPlanes>(static_cast<const S*>(from), words, codes, to, apart);
  });
}

void unpack(const uint64_t* from, int64_t apart, int64_t words, const Codes& codes, int64_t size, void* to) {
  with_planes(codes.planes(), size, [&]<class S, int kPlanes>() {
    unpack_as<S, kPlanes>(from, apart, words, codes, static_cast<S*>(to));
  });
}

}  // namespace
}  // namespace tgo::cpu::TGO_ISA
