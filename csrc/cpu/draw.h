// The random numbers of a block of neurons, in vectors. Part of kernels_impl.h.

namespace tgo::cpu::TGO_ISA {
namespace {

constexpr int kPhilox = 4;  // vectors of Philox lanes side by side
constexpr int kTwoNormals = 4;  // vectors of words side by side

// The low halves of the lanes of even, with those of odd between them.
TGO_HD Word<F> alternating(Lanes even, Lanes odd) { return (Word<F>)((even & 0xFFFFFFFFu) | odd << 32); }

// The low halves of at most so many lanes.
TGO_HD void store_low(uint32_t* to, Lanes from, int64_t count) {
  typedef uint32_t Half __attribute__((vector_size(sizeof(Lanes) / 2)));
  const Half low = __builtin_convertvector(from, Half);
  if (count >= kLanes / 2)
    memcpy(to, &low, sizeof(low));
  else
    for (int64_t i = 0; i < count; ++i) to[i] = low[i];
}

// Vectors side by side, of which the compiler makes as many operations.
typedef float Several __attribute__((vector_size(kTwoNormals * sizeof(F))));
struct EachExact {
  static TGO_HD Several root(Several x) {
    F each[kTwoNormals];
    memcpy(each, &x, sizeof(x));
    for (F& one : each) one = Exact::root(one);
    memcpy(&x, each, sizeof(x));
    return x;
  }
  static TGO_HD Several product_plus(Several x, float scale, Several c) {
    F each[kTwoNormals], plus[kTwoNormals];
    memcpy(each, &x, sizeof(x));
    memcpy(plus, &c, sizeof(c));
    for (int i = 0; i < kTwoNormals; ++i) each[i] = Exact::product_plus(each[i], scale, plus[i]);
    memcpy(&x, each, sizeof(x));
    return x;
  }
};

// Of steps 0 and 1, and of 2 and 3, by neuron.
using Words = uint32_t[2][kBlock + 2 * kPhilox * kLanes];

// The words of Kernels::noise()'s neurons; returns how many of others stand before them.
template <uint32_t stream>
TGO_HD int64_t draw_words(uint64_t seed, const int64_t* neuron, int64_t distance, int64_t first, int64_t len,
                          uint32_t block, Words& words) {
  constexpr int64_t kHalf = kLanes / 2;  // as many pairs as Lanes has
  Lanes count, keys[2 * kRounds];
  for (int i = 0; i < kHalf; ++i) count[i] = i;
  philox_keys(seed, keys);
  asm("" : "+m"(keys));  // in memory: to broadcast them anew at every use costs more
  const Lanes block_lanes = Lanes{} + uint64_t(block);
  // of(k, &low, &high): numbers of the k-th pair and of those behind it; put(word, k, even, odd): where their words go.
  const auto draw = [&](int64_t pairs, const auto& of, const auto& put) TGO_INLINE {
    for (int64_t k = 0; k < pairs; k += kPhilox * kHalf) {
      Lanes low[kPhilox], high[kPhilox], lanes[4][kPhilox];
      for (int i = 0; i < kPhilox; ++i) of(k + i * kHalf, &low[i], &high[i]);
      philox<LaneOps, kPhilox, stream>(keys, low, high, block_lanes, lanes);
      for (int word = 0; word < 2; ++word)
        for (int i = 0; i < kPhilox; ++i) put(word, k + i * kHalf, lanes[word][i], lanes[word + 2][i]);
    }
  };
  const auto side_by_side = [&](int word, int64_t k, Lanes even, Lanes odd) TGO_INLINE {
    const Word<F> both = alternating(even, odd);
    memcpy(words[word] + 2 * k, &both, sizeof(both));
  };
  int64_t before = 0;
  if (!neuron) {  // the high word is the same for the whole block, and what follows from it alone is computed once
    before = first % 2;
    const auto of = [&](int64_t k, Lanes* low, Lanes* high) TGO_INLINE {
      *low = count + uint64_t(first / 2 + k);
      *high = Lanes{} + (uint64_t(first / 2) >> 32);
    };
    draw((before + len + 1) / 2, of, side_by_side);
  } else if (distance == 1 && neuron[0] % 2 == 0) {
    const auto of = [&](int64_t k, Lanes* low, Lanes* high) TGO_INLINE {
      Lanes pair{};
      for (int i = 0; i < kHalf; ++i) pair[i] = neuron[2 * (k + i)] >> 1;
      *low = pair, *high = pair >> 32;
    };
    draw((len + 1) / 2, of, side_by_side);
  } else {  // of runs of `distance` neurons every other one is of even ones; short ones would not fill the lanes
    if (2 * distance < kPhilox * kHalf) distance = 0;
    for (int64_t j = 0, run, done; j < len; j += done) {
      run = distance ? distance - (first + j) % distance : len;
      const bool pairs = run == distance && j + 2 * run <= len && neuron[j] % 2 == 0;
      if (run > len - j) run = len - j;
      done = pairs ? 2 * run : run;
      const auto load_index = [&](int64_t k) TGO_INLINE {
        Lanes index;
        memcpy(&index, neuron + j + k, sizeof(index));
        return index;
      };
      const auto of = [&](int64_t k, Lanes* low, Lanes* high) TGO_INLINE {
        *low = load_index(k) >> 1, *high = load_index(k) >> 33;
      };
      draw(run, of, [&](int word, int64_t k, Lanes even, Lanes odd) TGO_INLINE {
        uint32_t* to = words[word] + j + k;
        store_low(to, pairs || load_index(k) % 2 == 0 ? even : odd, run - k);
        if (pairs) store_low(to + distance, odd, run - k);
      });
    }
  }
  return before;
}

void noise(uint64_t seed, const int64_t* neuron, int64_t distance, int64_t first, int64_t len, uint32_t block,
           float* const z[kStepsPerBlock], const void* const* next[2], int64_t size) {
  alignas(64) Words words;
  const int64_t before = draw_words<kNormals>(seed, neuron, distance, first, len, block, words);
  for (int word = 0; word < 2; ++word)
    for (int64_t j = 0; j < len; j += kTwoNormals * kLanes) {
      for (int i = 2 * word; i < 2 * word + 2; ++i)
        for (int rows = 0; rows < 2; ++rows)
          if (next[rows][i])
            for (int64_t line = 0; line < kTwoNormals * kLanes * size; line += 64)
              fetch(static_cast<const char*>(next[rows][i]) + j * size + line);
      Word<Several> several;
      memcpy(&several, words[word] + before + j, sizeof(several));
      Several z0, z1;
      two_normals<EachExact, Several>(several, &z0, &z1);
      memcpy(z[2 * word] + j, &z0, sizeof(z0));
      memcpy(z[2 * word + 1] + j, &z1, sizeof(z1));
    }
}

// In 65536 equally likely numbers so many are below.
TGO_HD Int<F> chances_of(F value, bool with_sign) {
  const F size = with_sign ? absolute(value) : value;
  const F p = size > 0.f ? size : F{};  // NaN has none
  return __builtin_convertvector((p < 1.f ? p : splat<F>(1.f)) * 65536.f + 0.5f, Int<F>);
}

template <class S>
void spikes_of(const Chances& c, const Words& words, int64_t before) {
  for_vectors(c.len, [&](int64_t j, auto count) TGO_INLINE {
    const F value = load_row<S>(c.x, j, count);
    const Int<F> chances = chances_of(value, c.with_sign);
    const Word<F> sign = c.with_sign ? bit_cast<Word<F>>(value) & 0x80000000u : Word<F>{};
    const Word<F> spike = sign | 0x3F800000u;
    for (int i = 0; i < kStepsPerBlock; ++i) {
      if (!c.rows[i]) continue;
      const Word<F> word = load<Word<F>>(words[i / 2] + before + j, Whole());
      const Int<F> number = bit_cast<Int<F>>(i % 2 ? word >> 16 : word & 0xFFFFu);
      store_row<S, true>(c.rows[i], j, bit_cast<F>((Word<F>)(number < chances) & spike), count);
    }
  });
}

void spikes(uint64_t seed, const int64_t* neuron, int64_t distance, int64_t first, uint32_t block, Storage storage,
            const Chances& c) {
  alignas(64) Words words;
  const int64_t before = draw_words<kChances>(seed, neuron, distance, first, c.len, block, words);
  as_stored(storage, [&]<class S>() { spikes_of<S>(c, words, before); });
}

}  // namespace
}  // namespace tgo::cpu::TGO_ISA
