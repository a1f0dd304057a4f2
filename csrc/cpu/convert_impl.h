// fp16 and bf16 rows to fp32 and back: part of kernels_impl.h. Plain loops, which the compiler vectorises.

#define TGO_ROW(j, len) _Pragma("GCC ivdep") for (int64_t j = 0; j < len; ++j)

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
