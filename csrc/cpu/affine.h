// Rows of elements that have a few channels: their sums, and what is added to them. Part of kernels_impl.h.

namespace tgo::cpu::TGO_ISA {
namespace {

template <class S>
void sums_of(const S* x, int64_t rows, int64_t apart, int64_t len, double* __restrict sum, double* __restrict squares) {
  for (; rows >= 4; rows -= 4, x += 4 * apart)  // so that the sums are read and written less often
    for (int64_t e = 0; e < len; ++e) {
      const double a = value_of(x[e]), b = value_of(x[apart + e]);
      const double c = value_of(x[2 * apart + e]), d = value_of(x[3 * apart + e]);
      sum[e] += (a + b) + (c + d);
      squares[e] += (a * a + b * b) + (c * c + d * d);
    }
  for (; rows > 0; --rows, x += apart)
    for (int64_t e = 0; e < len; ++e) {
      const double value = value_of(x[e]);
      sum[e] += value;
      squares[e] += value * value;
    }
}

void column_sums(Storage storage, const void* x, int64_t rows, int64_t apart, int64_t len, double* sum,
                 double* squares) {
  as_stored(storage, [&]<class S>() { sums_of(static_cast<const S*>(x), rows, apart, len, sum, squares); });
}

template <class S>
void add_line(S* __restrict g, const S* __restrict x, const float* slope, const float* offset, bool one, int64_t len) {
  if (one) {
    const float a = *slope, b = *offset;
    for (int64_t e = 0; e < len; ++e) assign(g + e, value_of(g[e]) + (a * value_of(x[e]) + b));
  } else {
    for (int64_t e = 0; e < len; ++e) assign(g + e, value_of(g[e]) + (slope[e] * value_of(x[e]) + offset[e]));
  }
}

void add_affine(Storage storage, void* g, const void* x, const float* slope, const float* offset, bool one,
                int64_t len) {
  as_stored(storage, [&]<class S>() {
    add_line(static_cast<S*>(g), static_cast<const S*>(x), slope, offset, one, len);
  });
}

}  // namespace
}  // namespace tgo::cpu::TGO_ISA
