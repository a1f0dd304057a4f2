#include "norm.h"

#include <torch/csrc/stable/ops.h>

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
