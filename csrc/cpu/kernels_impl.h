// The row loops, compiled once for each instruction set: the including file names TGO_ISA, its vector of 64-bit lanes
// `Lanes`, and `Multiply`, which philox() calls on it. Everything here is local to that file, so that no wide code leaks into others.

namespace tgo::cpu::TGO_ISA {
namespace {

#define TGO_ROW(j, len) _Pragma("GCC ivdep") for (int64_t j = 0; j < len; ++j)

void noise(uint64_t seed, const int64_t* neuron, int64_t len, uint32_t block, float* const z[kStepsPerBlock]) {
  constexpr int kLanes = sizeof(Lanes) / sizeof(uint64_t);
  typedef uint32_t Words __attribute__((vector_size(sizeof(Lanes) / 2)));
  alignas(64) uint32_t words[4][kMaxBlock];
  for (int64_t j = 0; j < len; j += kLanes) {  // neuron[] is padded to whole vectors
    Lanes index, w[4];
    memcpy(&index, neuron + j, sizeof(index));
    philox<Multiply>(seed, index, block, w);
    for (int i = 0; i < 4; ++i) {
      const Words low = __builtin_convertvector(w[i], Words);
      memcpy(words[i] + j, &low, sizeof(low));
    }
  }
  for (int pair = 0; pair < 2; ++pair) {
    const uint32_t *a = words[2 * pair], *b = words[2 * pair + 1];
    float *z0 = z[2 * pair], *z1 = z[2 * pair + 1];
    TGO_ROW(j, len) box_muller(a[j], b[j], z0 + j, z1 + j);
  }
}

template <Noise noise, bool soft, bool guarded>
void forward(const Neuron& constants, int64_t len, const float* x, const float* xi, float* v, float* s,
             double* penalty, Counts* counts) {
  const Neuron n = constants;
  int32_t fired = 0, neighbors = 0;
  TGO_ROW(j, len) {
    const float h = charge(v[j], x[j], n);
    const float u = disturb<noise>(h, noise == kNoNoise ? 0.f : xi[j], n);
    const bool fires = u >= n.v_threshold;
    s[j] = fires ? 1.f : 0.f;
    v[j] = reset<soft>(fires, carried<noise>(h, u), n);
    fired += fires;
    if (guarded) {
      const float distance = fabsf(h - n.v_threshold);
      penalty[j] += double(guard(distance, n));
      neighbors += distance < n.guard_margin;
    }
  }
  counts->fired += fired;
  counts->neighbors += neighbors;
}

template <Noise noise, bool soft>
void recompute(const Neuron& constants, int64_t len, const float* x, const float* xi, float* v, float* h, float* u) {
  const Neuron n = constants;
  TGO_ROW(j, len) {
    h[j] = charge(v[j], x[j], n);
    const float disturbed = disturb<noise>(h[j], noise == kNoNoise ? 0.f : xi[j], n);
    if (noise != kNoNoise) u[j] = disturbed;
    v[j] = reset<soft>(disturbed >= n.v_threshold, carried<noise>(h[j], disturbed), n);
  }
}

template <Curve curve>
void surrogate_row(const Neuron& constants, int64_t len, const float* at, float* z) {
  const Neuron n = constants;
  TGO_ROW(j, len) z[j] = surrogate<curve>(at[j] - n.v_threshold, n.curve_height, n.curve_scale);
}

template <Noise noise, bool soft, bool guarded, bool detach>
void backward(const Neuron& constants, int64_t len, const float* h, const float* u, const float* z, const float* g_s,
              float k, float* g_v, float* g_x) {
  const Neuron n = constants;
  TGO_ROW(j, len) {
    const float g_h = step_backward<noise, soft, guarded, detach>(h[j], u[j], z[j], g_s[j], g_v[j], k, n);
    g_x[j] = n.gain * g_h;
    g_v[j] = n.decay * g_h;
  }
}

double sum(const double* values, int64_t len) {
  double lanes[8] = {};
  for (int64_t j = 0; j < len; j += 8)
    for (int i = 0; i < 8; ++i) lanes[i] += values[j + i];
  double total = 0;
  for (int i = 0; i < 8; ++i) total += lanes[i];
  return total;
}

void load_bfloat16(const uint16_t* from, int64_t len, float* to) {
  TGO_ROW(j, len) to[j] = bit_cast<float>(uint32_t(from[j]) << 16);
}

// Round to nearest even; NaN stays a (quiet) NaN.
void store_bfloat16(const float* from, int64_t len, uint16_t* to) {
  TGO_ROW(j, len) {
    const uint32_t bits = bit_cast<uint32_t>(from[j]);
    const uint32_t rounded = bits + 0x7FFF + (bits >> 16 & 1);
    to[j] = uint16_t((bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded >> 16);
  }
}

void load_half(const uint16_t* from, int64_t len, float* to) {
  TGO_ROW(j, len) {
    const uint32_t magnitude = uint32_t(from[j] & 0x7FFF) << 13;
    // Scaling by 2^112 mends the exponent's bias and normalises subnormals; infinities and NaN keep a full exponent.
    const uint32_t finite = bit_cast<uint32_t>(bit_cast<float>(magnitude) * 5.192296858534828e33f);
    const uint32_t bits = magnitude >= 0x0F800000 ? magnitude | 0x7F800000 : finite;
    to[j] = bit_cast<float>(bits | uint32_t(from[j] & 0x8000) << 16);
  }
}

// Round to nearest even, with subnormals; NaN stays a (quiet) NaN.
void store_half(const float* from, int64_t len, uint16_t* to) {
  TGO_ROW(j, len) {
    const uint32_t bits = bit_cast<uint32_t>(from[j]), magnitude = bits & 0x7FFFFFFF;
    const uint32_t normal = (magnitude - 0x38000000 + 0xFFF + (magnitude >> 13 & 1)) >> 13;
    // Adding 1/2 leaves a subnormal's bits, rounded by the addition, at the bottom of the sum.
    const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3F000000;
    const uint32_t finite = magnitude < 0x38800000 ? subnormal : normal;
    const uint32_t special = magnitude > 0x7F800000 ? 0x7E00 : 0x7C00;
    to[j] = uint16_t((magnitude >= 0x477FF000 ? special : finite) | (bits >> 16 & 0x8000));
  }
}

}  // namespace

#define TGO_SOFT_GUARD(f, noise) \
  { {f<noise, false, false>, f<noise, false, true>}, { f<noise, true, false>, f<noise, true, true> } }
#define TGO_DETACH(noise, soft, guarded) \
  { backward<noise, soft, guarded, false>, backward<noise, soft, guarded, true> }
#define TGO_BACKWARD(noise)                                               \
  {                                                                       \
    {TGO_DETACH(noise, false, false), TGO_DETACH(noise, false, true)}, {  \
      TGO_DETACH(noise, true, false), TGO_DETACH(noise, true, true)       \
    }                                                                     \
  }

const Kernels kernels = {
    TGO_ISA_NAME,
    noise,
    {TGO_SOFT_GUARD(forward, kNoNoise), TGO_SOFT_GUARD(forward, kMembraneNoise),
     TGO_SOFT_GUARD(forward, kThresholdNoise)},
    {{recompute<kNoNoise, false>, recompute<kNoNoise, true>},
     {recompute<kMembraneNoise, false>, recompute<kMembraneNoise, true>},
     {recompute<kThresholdNoise, false>, recompute<kThresholdNoise, true>}},
    {surrogate_row<kLorentz>, surrogate_row<kLogistic>, surrogate_row<kTriangle>, surrogate_row<kBox>,
     surrogate_row<kExponential>, surrogate_row<kInverseSquare>, surrogate_row<kGaussian>},
    {TGO_BACKWARD(kNoNoise), TGO_BACKWARD(kMembraneNoise), TGO_BACKWARD(kThresholdNoise)},
    sum,
    load_half,
    load_bfloat16,
    store_half,
    store_bfloat16,
};

}  // namespace tgo::cpu::TGO_ISA
