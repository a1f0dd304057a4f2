// fp16 and bf16 rows to fp32 and back: part of kernels_impl.h. Plain loops, which the compiler vectorises.

#define TGO_ROW(j, len) _Pragma("GCC ivdep") for (int64_t j = 0; j < len; ++j)

template <class S>
void load_row(const uint16_t* from, int64_t len, float* to) {
  TGO_ROW(j, len) to[j] = widen(S{from[j]});
}

template <class S>
void store_row(const float* from, int64_t len, uint16_t* to) {
  TGO_ROW(j, len) to[j] = narrow<S>(from[j]).bits;
}
