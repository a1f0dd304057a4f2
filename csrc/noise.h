// The noise of tgo_kernels/noise.py, bit for bit: Philox4x32-10 and Box-Muller in polynomials.
#pragma once

#include "numbers.h"

namespace tgo {

constexpr int kStepsPerBlock = 4;
constexpr uint32_t kNormals = 0, kChances = 1;  // streams of the same seed: the noise, and spikes by chance

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

// Four words at counter (low, high, block, stream) for each of so many pairs (or vectors of them), each word in the low
// half of its 64-bit lane; the high halves are left unspecified. Lane is uint64_t, or a vector of them, with the
// operations Op. Pairs are taken side by side since every round waits for the one before.
template <class Op, int count, uint32_t stream = kNormals, class Lane>
TGO_HD void philox(const Lane keys[2 * kRounds], const Lane low[count], const Lane high[count], Lane block,
                   Lane words[4][count]) {
  Lane(&c0)[count] = words[0], (&c1)[count] = words[1], (&c2)[count] = words[2], (&c3)[count] = words[3];
  for (int i = 0; i < count; ++i) c0[i] = low[i], c1[i] = high[i], c2[i] = block, c3[i] = Lane{} + uint64_t(stream);
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

// Two standard normals from a word. Op has the correctly rounded root, and product_plus, x * scale + c where the product
// is exact: one instruction or two, the bits are the same.
template <class Op, class F>
TGO_HD void two_normals(Word<F> word, F* z0, F* z1) {
  const F twice = bit_cast<F>((word & 0xFFFFFu) | 0x41800000u) + -15.999999046325684f;
  const Int<F> bits = bit_cast<Int<F>>(twice);
  const F m = bit_cast<F>(bits | 0x3F800000);
  const F q = (m + -2.947556972503662f) * m;
  const F rest = Op::product_plus(m, -0.078125f, splat<F>(0.2853561341762543f)) *
                 ((q + 8.237969398498535f) * q + 12.631758689880371f);
  const F root = Op::root(Op::product_plus(to_float<F>(1073410784 - bits), 0x1p-22f, rest));
  const F radius = bit_cast<F>(bit_cast<Word<F>>(root) ^ (word & 0x80000000u));

  const F y = to_float<F>(bit_cast<Int<F>>(word * 0x13C6F2u)) * 0x1p-32f;
  const F t = y * y;
  const F p = (t + -3.1080756187438965f) * t;
  *z0 = radius * ((t + -0.2500007748603821f) * (p + 3.3301398754119873f));
  *z1 = radius * (y * (Op::product_plus(t, 0.5f, splat<F>(-0.5735214352607727f)) * (p + 5.039614200592041f) +
                       0.27482274174690247f));
}

}  // namespace tgo
