// The noise of tgo_kernels/noise.py, bit for bit: Philox4x32-10 and Box-Muller in polynomials.
#pragma once

#include "numbers.h"

namespace tgo {

constexpr int kStepsPerBlock = 4;

// What Philox needs of a 64-bit lane: the product of its low half, and three-way exclusive or.
struct ScalarLanes {
  static TGO_HD uint64_t multiply(uint64_t word, uint32_t by) {
#if defined(__CUDA_ARCH__)
    uint64_t product;  // one instruction; of the expression below the compiler makes three
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(uint32_t(word)), "r"(by));
    return product;
#else
    return uint64_t(uint32_t(word)) * by;
#endif
  }
  static TGO_HD uint64_t exclusive_or(uint64_t a, uint64_t b, uint64_t c) { return a ^ b ^ c; }
};

constexpr int kRounds = 10;

// Both key words of every round.
template <class Lane>
TGO_HD void philox_keys(uint64_t seed, Lane keys[2 * kRounds]) {
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < kRounds; ++round) {
    keys[2 * round] = Lane{} + uint64_t(k0), keys[2 * round + 1] = Lane{} + uint64_t(k1);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// Four words at counter (low, high, block, 0) for each of so many neurons (or vectors of them), each word in the low half
// of its 64-bit lane; the high halves are left unspecified. Lane is uint64_t, or a vector of them, with the operations
// Op. Neurons are taken side by side since every round waits for the one before.
template <class Op, int count, class Lane>
TGO_HD void philox(const Lane keys[2 * kRounds], const Lane low[count], const Lane high[count], Lane block,
                   Lane words[4][count]) {
  Lane(&c0)[count] = words[0], (&c1)[count] = words[1], (&c2)[count] = words[2], (&c3)[count] = words[3];
  for (int i = 0; i < count; ++i) c0[i] = low[i], c1[i] = high[i], c2[i] = block, c3[i] = Lane{};
  TGO_UNROLL for (int round = 0; round < kRounds; ++round) {
    Lane p0[count], p1[count];
    for (int i = 0; i < count; ++i) {
      p0[i] = Op::multiply(c0[i], 0xD2511F53u);
      p1[i] = Op::multiply(c2[i], 0xCD9E8D57u);
    }
    for (int i = 0; i < count; ++i) {
      c0[i] = Op::exclusive_or(p1[i] >> 32, c1[i], keys[2 * round]);
      c1[i] = p1[i];
      c2[i] = Op::exclusive_or(p0[i] >> 32, c3[i], keys[2 * round + 1]);
      c3[i] = p0[i];
    }
  }
}

// Two standard normals: radius from a, angle from b. Root is the correctly rounded square root.
template <class Root, class F>
TGO_HD void box_muller(Word<F> a, Word<F> b, F* z0, F* z1) {
  const F u = exact_product_plus(to_float<F>(bit_cast<Int<F>>(a >> 1)), 0x1p-31f, 0x1p-32f);
  const Int<F> bits = bit_cast<Int<F>>(u);
  const Int<F> exponent = (bits - 0x3F3504F3) & -0x800000;  // in units of 2^-23
  const F f = bit_cast<F>(bits - exponent) - 1.f;
  F log = f * 0.10035210847854614f + -0.1633584350347519f;
  log = log * f + 0.1732587069272995f;
  log = log * f + -0.19888246059417725f;
  log = log * f + 0.24961474537849426f;
  log = log * f + -0.33335262537002563f;
  log = log * f + 0.500005841255188f;
  log = log * f + -1.f;
  const F radius = Root()(to_float<F>(exponent) * (-0.6931471824645996f * 0x1p-23f) + f * log);

  const F y = to_float<F>(bit_cast<Int<F>>(b << 2)) * 0x1p-32f;
  const F w = y * y;
  F s = w * -0.004554165527224541f + 0.07965986430644989f;
  s = s * w + -0.6459610462188721f;
  s = y * (s * w + 1.570796251296997f);
  F c = w * -0.02042795903980732f + 0.25360700488090515f;
  c = c * w + -1.2336980104446411f;
  c = c * w + 1.f;
  *z0 = bit_cast<F>(bit_cast<Word<F>>((c - s) * radius) ^ (b & 0x80000000u));
  *z1 = bit_cast<F>(bit_cast<Word<F>>((c + s) * radius) ^ (b << 1 & 0x80000000u));
}

}  // namespace tgo
