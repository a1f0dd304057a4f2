// fp16 and bf16 rows to fp32 and back: part of kernels_impl.h. Plain loops, which the compiler vectorises. Meanwhile the
// row that comes `ahead` is fetched.

#define TGO_ROW(j, len) _Pragma("GCC ivdep") for (int64_t j = 0; j < len; ++j)

template <class S>
void load_row(const uint16_t* from, int64_t len, int64_t ahead, float* to) {
  for (int64_t j = 0; j < len; j += 32) fetch(from + j + ahead);
  TGO_ROW(j, len) to[j] = widen(S{from[j]});
}

template <class S>
void store_row(const float* from, int64_t len, int64_t ahead, uint16_t* to) {
  for (int64_t j = 0; j < len; j += 32) fetch_to_write(to + j + ahead);
  TGO_ROW(j, len) to[j] = narrow<S>(from[j]).bits;
}
