// A plane of a max pool, and back. Part of kernels_impl.h.

namespace tgo::cpu::TGO_ISA {
namespace {

// The winner is torch's: the first of the largest, the last NaN; the smallest where a channel's sign is -1.
TGO_INLINE inline void challenge(float x, uint8_t tap, float* best, uint8_t* winner) {
  const bool wins = (x > *best) | (x != x) | (*winner == kNoWinner);
  *best = wins ? x : *best;
  *winner = wins ? tap : *winner;
}

// A row of outputs, one after the other, of elements in a row, whose windows have few that are neighbours.
template <class S>
void outputs_in_row(const Pool& pool, const S* plane, float sign, int64_t y, S* outputs, uint8_t* winners) {
  for (int64_t o = 0; o < pool.outputs[1]; ++o) {
    float best = -__builtin_inff();
    uint8_t winner = kNoWinner;
    for (int64_t i = 0; i < pool.window[0]; ++i) {
      const int64_t row = y * pool.stride[0] - pool.padding[0] + i * pool.dilation[0];
      if (row < 0 || row >= pool.size[0]) continue;
      for (int64_t j = 0; j < pool.window[1]; ++j) {
        const int64_t column = o * pool.stride[1] - pool.padding[1] + j * pool.dilation[1];
        if (column < 0 || column >= pool.size[1]) continue;
        challenge(value_of(plane[row * pool.size[1] + column]) * sign, uint8_t(i * pool.window[1] + j), &best, &winner);
      }
    }
    assign(outputs + o, best * sign);
    winners[o] = winner;
  }
}

// The same where channels are neighbours: for all outputs of a row at once, tap after tap.
template <class S>
void outputs_of_channels(const Pool& pool, const S* plane, const float* __restrict signs, int64_t y,
                         S* __restrict outputs, uint8_t* __restrict winners) {
  const int64_t inner = pool.inner;
  float* __restrict const best = pool.best;
  for (int64_t o = 0; o < pool.row(); ++o) best[o] = -__builtin_inff(), winners[o] = kNoWinner;
  for (int64_t i = 0; i < pool.window[0]; ++i) {
    const int64_t row = y * pool.stride[0] - pool.padding[0] + i * pool.dilation[0];
    if (row < 0 || row >= pool.size[0]) continue;
    for (int64_t j = 0; j < pool.window[1]; ++j)
      for (int64_t o = 0; o < pool.outputs[1]; ++o) {
        const int64_t column = o * pool.stride[1] - pool.padding[1] + j * pool.dilation[1];
        if (column < 0 || column >= pool.size[1]) continue;
        const S* __restrict const from = plane + (row * pool.size[1] + column) * inner;
        for (int64_t c = 0; c < inner; ++c)
          challenge(value_of(from[c]) * signs[c], uint8_t(i * pool.window[1] + j), best + o * inner + c,
                    winners + o * inner + c);
      }
  }
  for (int64_t o = 0; o < pool.row(); o += inner)
    for (int64_t c = 0; c < inner; ++c) assign(outputs + o + c, best[o + c] * signs[c]);
}

// The usual pool, windows of 2x2 beside each other, of a plane without `inner`.
template <class S>
void quads_of(const Pool& pool, const S* __restrict plane, float sign, S* __restrict outputs,
              uint8_t* __restrict winners) {
  const int64_t width = pool.size[1], count = pool.outputs[1];
  for (int64_t y = 0; y < pool.outputs[0]; ++y, plane += 2 * width, outputs += count, winners += count)
    for (int64_t o = 0; o < count; ++o) {
      const float a = value_of(plane[2 * o]) * sign, b = value_of(plane[2 * o + 1]) * sign;
      const float c = value_of(plane[width + 2 * o]) * sign, d = value_of(plane[width + 2 * o + 1]) * sign;
      const bool second = (b > a) | (b != b);
      const float upper = second ? b : a;
      const bool third = (c > upper) | (c != c);
      const float three = third ? c : upper;
      const bool fourth = (d > three) | (d != d);
      assign(outputs + o, (fourth ? d : three) * sign);
      winners[o] = fourth ? 3 : third ? 2 : second ? 1 : 0;
    }
}

void pool_outputs(const Pool& pool, Storage storage, const void* plane, const float* signs, void* outputs,
                  uint8_t* winners) {
  as_stored(storage, [&]<class S>() {
    const S* const from = static_cast<const S*>(plane);
    S* const to = static_cast<S*>(outputs);
    if (pool.quads()) return quads_of(pool, from, *signs, to, winners);
    for (int64_t y = 0; y < pool.outputs[0]; ++y) {
      const int64_t at = y * pool.row();
      pool.inner == 1 ? outputs_in_row(pool, from, *signs, y, to + at, winners + at)
                      : outputs_of_channels(pool, from, signs, y, to + at, winners + at);
    }
  });
}

// In fp32, in the order of the outputs; sums of a plane are rounded once.
void pool_back(const Pool& pool, Storage storage, const void* grad, const uint8_t* winners, void* g_plane) {
  as_stored(storage, [&]<class S>() {
    const S* g = static_cast<const S*>(grad);
    float* const sums = std::is_same_v<S, float> ? static_cast<float*>(g_plane) : pool.best;
    memset(sums, 0, pool.elements() * sizeof(float));
    int64_t taps[kNoWinner];
    for (int64_t k = 0; k < pool.window[0] * pool.window[1]; ++k)
      taps[k] = ((k / pool.window[1] * pool.dilation[0] - pool.padding[0]) * pool.size[1] +
                 k % pool.window[1] * pool.dilation[1] - pool.padding[1]) * pool.inner;
    const auto add = [&](int64_t at, uint8_t winner, S value) TGO_INLINE {
      if (winner != kNoWinner) sums[at + taps[winner]] += value_of(value);
    };
    for (int64_t y = 0; y < pool.outputs[0]; ++y, g += pool.row(), winners += pool.row()) {
      const int64_t first = y * pool.stride[0] * pool.size[1] * pool.inner, step = pool.stride[1] * pool.inner;
      if (pool.inner == 1)
        for (int64_t o = 0; o < pool.outputs[1]; ++o) add(first + o * step, winners[o], g[o]);
      else
        for (int64_t o = 0; o < pool.row(); o += pool.inner)
          for (int64_t c = 0; c < pool.inner; ++c)
            add(first + o / pool.inner * step + c, winners[o + c], g[o + c]);
    }
    if constexpr (!std::is_same_v<S, float>)
      for (int64_t e = 0; e < pool.elements(); ++e) assign(static_cast<S*>(g_plane) + e, sums[e]);
  });
}

}  // namespace
}  // namespace tgo::cpu::TGO_ISA
