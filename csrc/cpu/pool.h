// A row of outputs of a max pool, for all taps of its window at once. Part of kernels_impl.h.

namespace tgo::cpu::TGO_ISA {
namespace {

// f(tap, first, last, offset) for the taps that outputs first .. last of row `y` have; output 0's would lie `offset`
// elements into the plane.
template <class Body>
TGO_INLINE inline void for_each_tap(const Pool& pool, int64_t y, const Body& f) {
  for (int64_t i = 0; i < pool.window[0]; ++i) {
    const int64_t row = y * pool.stride[0] - pool.padding[0] + i * pool.dilation[0];
    if (row < 0 || row >= pool.size[0]) continue;
    for (int64_t j = 0; j < pool.window[1]; ++j) {
      const int64_t at = j * pool.dilation[1] - pool.padding[1], stride = pool.stride[1];
      const int64_t first = at < 0 ? (stride - 1 - at) / stride : 0, room = pool.size[1] - 1 - at;
      const int64_t reach = room < 0 ? -1 : room / stride, last = reach < pool.outputs[1] ? reach : pool.outputs[1] - 1;
      f(int32_t(i * pool.window[1] + j), first, last, (row * pool.size[1] + at) * pool.inner);
    }
  }
}

// f(output, element) for the elements of one tap. Where they lie in a row, their distance is known to the compiler.
template <class Body>
TGO_INLINE inline void for_each_element(const Pool& pool, int64_t first, int64_t last, const Body& f) {
  const int64_t inner = pool.inner, stride = pool.stride[1];
  if (inner > 1) {
    for (int64_t o = first; o <= last; ++o)
      for (int64_t c = 0; c < inner; ++c) f(o * inner + c, o * stride * inner + c);
  } else if (stride == 2) {
    for (int64_t o = first; o <= last; ++o) f(o, 2 * o);
  } else {
    for (int64_t o = first; o <= last; ++o) f(o, o * stride);
  }
}

// The winner is torch's: the first of the largest, the last NaN.
template <class S>
void winners(const Pool& pool, const S* plane, int64_t y, float* __restrict best, int32_t* __restrict winner) {
  const int64_t count = pool.outputs[1] * pool.inner;
  for (int64_t o = 0; o < count; ++o) best[o] = -__builtin_inff(), winner[o] = -1;
  for_each_tap(pool, y, [&](int32_t tap, int64_t first, int64_t last, int64_t offset) TGO_INLINE {
    const S* const from = plane + offset;
    for_each_element(pool, first, last, [&](int64_t o, int64_t e) TGO_INLINE {
      const float x = value_of(from[e]);
      const bool wins = (x > best[o]) | (x != x) | (winner[o] < 0);
      best[o] = wins ? x : best[o];
      winner[o] = wins ? tap : winner[o];
    });
  });
}

// The usual pool, windows of 2x2 beside each other, of a plane without `inner`: all its outputs, or all its gradients.
template <class S, bool back>
void quads_of(const Pool& pool, const S* __restrict plane, S* __restrict outputs, S* __restrict g_plane) {
  const int64_t width = pool.size[1], count = pool.outputs[1];
  for (int64_t y = 0; y < pool.outputs[0]; ++y, plane += 2 * width, outputs += count) {
    S* const upper_row = back ? g_plane + 2 * y * width : nullptr;
    for (int64_t o = 0; o < count; ++o) {
      const float a = value_of(plane[2 * o]), b = value_of(plane[2 * o + 1]);
      const float c = value_of(plane[width + 2 * o]), d = value_of(plane[width + 2 * o + 1]);
      const bool second = (b > a) | (b != b);
      const float upper = second ? b : a;
      const bool third = (c > upper) | (c != c);
      const float three = third ? c : upper;
      const bool fourth = (d > three) | (d != d);
      if constexpr (back) {
        const float g = value_of(outputs[o]), g_upper = third | fourth ? 0.f : g, g_lower = fourth ? 0.f : g;
        assign(upper_row + 2 * o, second ? 0.f : g_upper);
        assign(upper_row + 2 * o + 1, second ? g_upper : 0.f);
        assign(upper_row + width + 2 * o, third ? g_lower : 0.f);
        assign(upper_row + width + 2 * o + 1, fourth ? g : 0.f);
      } else {
        assign(outputs + o, fourth ? d : three);
      }
    }
  }
}

template <class S>
void quads_as(const Pool& pool, const void* plane, void* outputs, void* g_plane) {
  const S* const from = static_cast<const S*>(plane);
  S* const to = static_cast<S*>(outputs);
  g_plane ? quads_of<S, true>(pool, from, to, static_cast<S*>(g_plane)) : quads_of<S, false>(pool, from, to, nullptr);
}

void pool_quads(const Pool& pool, Storage storage, const void* plane, void* outputs, void* g_plane) {
  switch (storage) {
    case Storage::kFloat: return quads_as<float>(pool, plane, outputs, g_plane);
    case Storage::kHalf: return quads_as<Half>(pool, plane, outputs, g_plane);
    case Storage::kBFloat16: return quads_as<BFloat16>(pool, plane, outputs, g_plane);
  }
}

void pool_winners(const Pool& pool, Storage storage, const void* plane, int64_t y, float* best, int32_t* winner) {
  switch (storage) {
    case Storage::kFloat: return winners(pool, static_cast<const float*>(plane), y, best, winner);
    case Storage::kHalf: return winners(pool, static_cast<const Half*>(plane), y, best, winner);
    case Storage::kBFloat16: return winners(pool, static_cast<const BFloat16*>(plane), y, best, winner);
  }
}

void pool_back(const Pool& pool, int64_t y, const float* __restrict grad, const int32_t* __restrict winner,
               float* __restrict g_plane) {
  for_each_tap(pool, y, [&](int32_t tap, int64_t first, int64_t last, int64_t offset) TGO_INLINE {
    float* const to = g_plane + offset;
    for_each_element(pool, first, last,
                     [&](int64_t o, int64_t e) TGO_INLINE { to[e] += winner[o] == tap ? grad[o] : 0.f; });
  });
}

}  // namespace
}  // namespace tgo::cpu::TGO_ISA
