#include "norm.h"

#include <torch/csrc/stable/ops.h>

#include <cmath>

#include "kernels.h"
#include "walk.h"

namespace tgo::cpu {
namespace {

constexpr int64_t kParts = 64;  // of the rows at the most, that are summed up by themselves, whatever the threads
constexpr int64_t kRows = 16;   // of a part at the least
constexpr int64_t kGrain = 16 * 1024;  // elements that are worth a thread
constexpr int64_t kColumns = 512;      // that are summed at once: their sums stay in the innermost cache
constexpr int64_t kLine = 128;         // columns that what is longer is cut into
constexpr int64_t kLong = 64;          // elements of a channel side by side that get one slope and offset

int64_t bytes_of(Storage storage) { return storage == Storage::kFloat ? 4 : 2; }

// Sums and sums of squares of some neighbouring channels, over rows that lie `width` elements apart.
void add_rows(Storage storage, const char* x, int64_t rows, int64_t width, int64_t channels, int64_t inner, double* sum,
              double* squares) {
  alignas(64) double sums[2][kColumns];
  const int64_t columns = inner > kColumns ? kLine : channels * inner;
  std::fill_n(sums[0], columns, 0);
  std::fill_n(sums[1], columns, 0);
  const auto add = [&](const char* from, int64_t count, int64_t apart, int64_t len) {
    best_kernels().column_sums(storage, from, count, apart, len, sums[0], sums[1]);
  };
  if (inner <= kColumns)
    add(x, rows, width, columns);
  else
    for (int64_t r = 0; r < rows; ++r, x += width * bytes_of(storage)) {
      const int64_t whole = inner / kLine;
      add(x, whole, kLine, kLine);
      add(x + whole * kLine * bytes_of(storage), 1, 0, inner - whole * kLine);
    }
  for (int64_t e = 0; e < columns; ++e) {
    sum[inner > kColumns ? 0 : e / inner] += sums[0][e];
    squares[inner > kColumns ? 0 : e / inner] += sums[1][e];
  }
}

// The values of all channels, or null.
const float* of_channels(const OptionalTensor& values, int64_t channels) {
  if (!values) return nullptr;
  STD_TORCH_CHECK(values->numel() == channels && values->is_contiguous(), "a norm has a value for each channel");
  return values->const_data_ptr<float>();
}

float* running_of(OptionalTensor& values, int64_t channels) {
  return of_channels(values, channels) ? values->mutable_data_ptr<float>() : nullptr;
}

}  // namespace

Tensor channel_moments(const Tensor& x, int64_t channels, int64_t inner) {
  const Storage storage = storage_of(x);
  const int64_t width = channels * inner;
  STD_TORCH_CHECK(channels > 0 && inner > 0 && x.numel() > 0 && x.numel() % width == 0,
                  "x must be [*, channels, inner] in memory");
  const int64_t outer = x.numel() / width, parts = std::clamp<int64_t>(outer / kRows, 1, kParts);
  const int64_t size = std::max<int64_t>(1, kColumns / inner), groups = (channels + size - 1) / size;
  const auto* const from = static_cast<const char*>(x.const_data_ptr());
  std::vector<double> sums(parts * 2 * channels);
  const int64_t grain = std::max<int64_t>(1, kGrain / (x.numel() / (parts * groups) + 1));
  torch::stable::parallel_for(0, parts * groups, grain, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t p = unit / groups, c = unit % groups * size, first = p * outer / parts;
      add_rows(storage, from + (first * width + c * inner) * bytes_of(storage), (p + 1) * outer / parts - first, width,
               std::min(size, channels - c), inner, &sums[2 * p * channels + c], &sums[(2 * p + 1) * channels + c]);
    }
  });
  for (int64_t p = 1; p < parts; ++p)
    for (int64_t k = 0; k < 2 * channels; ++k) sums[k] += sums[2 * p * channels + k];
  const Tensor moments = empty(x, ScalarType::Double, {2, channels}, {channels, 1});
  auto* const to = moments.mutable_data_ptr<double>();
  const double count = double(outer * inner);
  for (int64_t c = 0; c < channels; ++c) {
    const double mean = sums[c] / count, variance = sums[channels + c] / count - mean * mean;
    to[c] = mean;
    to[channels + c] = variance < 0 ? 0 : variance;
  }
  return moments;
}

Line norm_line(const Tensor& moments, double count, const OptionalTensor& weight, const OptionalTensor& bias,
               OptionalTensor running_mean, OptionalTensor running_var, double factor, double eps, int64_t dims) {
  const int64_t channels = moments.size(1);
  const float *weights = of_channels(weight, channels), *biases = of_channels(bias, channels);
  float* running[2] = {running_of(running_mean, channels), running_of(running_var, channels)};
  const auto* const mean = moments.const_data_ptr<double>();
  std::vector<int64_t> sizes(dims, 1), strides(dims, 1);
  sizes.at(0) = channels;
  const auto made = [&] {
    return empty(moments, ScalarType::Float, Sizes(sizes.data(), dims), Sizes(strides.data(), dims));
  };
  Line line{made(), made(), made(), made()};
  float* to[] = {std::get<0>(line).mutable_data_ptr<float>(), std::get<1>(line).mutable_data_ptr<float>(),
                 std::get<2>(line).mutable_data_ptr<float>(), std::get<3>(line).mutable_data_ptr<float>()};
  for (int64_t c = 0; c < channels; ++c) {
    const double variance = mean[channels + c];
    const float inverse = float(1 / std::sqrt(variance + eps)), centre = float(mean[c]);
    const float scale = weights ? weights[c] * inverse : inverse, offset = -centre * scale;
    to[0][c] = scale;
    to[1][c] = biases ? biases[c] + offset : offset;
    to[2][c] = centre;
    to[3][c] = inverse;
    const double found[] = {mean[c], variance * (count / (count - 1))};
    for (int k = 0; k < 2; ++k)
      if (running[k]) running[k][c] = float(factor * found[k] + (1 - factor) * running[k][c]);
  }
  return line;
}

std::tuple<Tensor, Tensor, Tensor> norm_grad(const Tensor& mean, const Tensor& inverse, const Tensor& scale,
                                             const OptionalTensor& g_scale, const OptionalTensor& g_shift,
                                             double count) {
  const int64_t channels = mean.numel();
  const float *m = of_channels(mean, channels), *d = of_channels(inverse, channels), *s = of_channels(scale, channels);
  const float *to_scale = of_channels(g_scale, channels), *to_shift = of_channels(g_shift, channels);
  const Tensor g_weight = row(mean, channels), slope = row(mean, channels), offset = row(mean, channels);
  auto* const g = g_weight.mutable_data_ptr<float>();
  auto *const a = slope.mutable_data_ptr<float>(), *const b = offset.mutable_data_ptr<float>();
  for (int64_t c = 0; c < channels; ++c) {
    const double shift = to_shift ? to_shift[c] : 0, centred = (to_scale ? to_scale[c] : 0) - m[c] * shift;
    const double line = -double(d[c]) * d[c] * s[c] * centred / count;
    g[c] = float(centred * d[c]);
    a[c] = float(line);
    b[c] = float(-s[c] * shift / count - line * m[c]);
  }
  return {g_weight, slope, offset};
}

void add_affine(Tensor g, const Tensor& x, const Tensor& slope, const Tensor& offset, int64_t inner) {
  const Storage storage = storage_of(x);
  const int64_t channels = slope.numel(), width = channels * inner;
  STD_TORCH_CHECK(g.numel() == x.numel() && g.scalar_type() == x.scalar_type(), "g must be as x");
  STD_TORCH_CHECK(channels > 0 && inner > 0 && offset.numel() == channels && x.numel() % width == 0 &&
                      slope.is_contiguous() && offset.is_contiguous(),
                  "x must be [*, channels, inner] in memory");
  const float *a = slope.const_data_ptr<float>(), *b = offset.const_data_ptr<float>();
  std::vector<float> of_row[2];  // where an element's channel changes soon: of each element of a row
  if (inner < kLong)
    for (int k = 0; k < 2; ++k) {
      of_row[k].resize(width);
      for (int64_t c = 0; c < channels; ++c) std::fill_n(&of_row[k][c * inner], inner, (k ? b : a)[c]);
    }
  const int64_t size = bytes_of(storage), lines = inner < kLong ? x.numel() / width : x.numel() / inner;
  const int64_t len = x.numel() / std::max<int64_t>(lines, 1);
  const auto* const from = static_cast<const char*>(x.const_data_ptr());
  auto* const to = static_cast<char*>(g.mutable_data_ptr());
  torch::stable::parallel_for(0, lines, std::max<int64_t>(1, kGrain / len), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const bool one = inner >= kLong;
      const float* const slopes = one ? a + k % channels : of_row[0].data();
      const float* const offsets = one ? b + k % channels : of_row[1].data();
      best_kernels().add_affine(storage, to + k * len * size, from + k * len * size, slopes, offsets, one, len);
    }
  });
}

}  // namespace tgo::cpu
