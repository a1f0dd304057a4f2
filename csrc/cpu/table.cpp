#include "table.h"

#include <algorithm>
#include <cstring>

namespace tgo::cpu {
namespace {

using Ints = std::vector<int64_t>;

// Where a value's elements lie along the columns of a row.
class Columns {
 public:
  Columns(const Ints& shape, const Ints& order, const Tensor& value) {
    const int64_t dims = order.size(), given = value.dim(), first = dims - (int64_t(shape.size()) - 1);
    STD_TORCH_CHECK(!shape.empty() && first >= 1 && given <= dims && value.scalar_type() == ScalarType::Float,
                    "a table is of fp32 values that broadcast to x");
    if (given == dims) steps_ = value.size(0), step_ = value.stride(0);
    for (int64_t k = 1; k < dims; ++k) {
      const int64_t d = order[k] - (dims - given);
      const bool varies = d >= 0 && value.size(d) != 1;
      STD_TORCH_CHECK(!varies || (k >= first && value.size(d) == shape[k - first + 1]), "values must vary in columns");
      if (k >= first) add(shape[k - first + 1], varies ? value.stride(d) : 0);
    }
  }

  int64_t steps() const { return steps_; }
  int64_t step() const { return step_; }  // elements between two of them
  int64_t period() const { return period_; }

  // f(column, element, count, stride) for runs of `count` columns, whose elements are so far apart.
  template <class F>
  void for_each(const F& f) const {
    const Run last = runs_.empty() ? Run{1, 0} : runs_.back();
    Ints at(runs_.size(), 0);
    int64_t element = 0;
    for (int64_t column = 0; column < period_; column += last.size) {
      f(column, element, last.size, last.stride);
      for (int64_t k = int64_t(runs_.size()) - 2; k >= 0; --k) {
        element += runs_[k].stride;
        if (++at[k] < runs_[k].size) break;
        element -= at[k] * runs_[k].stride;
        at[k] = 0;
      }
    }
  }

 private:
  struct Run {
    int64_t size, stride;
  };

  void add(int64_t size, int64_t stride) {
    period_ *= size;
    if (size == 1) return;
    if (!runs_.empty() && runs_.back().stride == size * stride)
      runs_.back() = {runs_.back().size * size, stride};
    else
      runs_.push_back({size, stride});
  }

  std::vector<Run> runs_;
  int64_t steps_ = 1, step_ = 0, period_ = 1;
};

}  // namespace

Tensor fill_table(const Ints& shape, const Ints& order, const Tensors& values) {
  std::vector<Columns> columns;
  int64_t rows = 0;
  for (const Tensor& value : values) rows += columns.emplace_back(shape, order, value).steps();
  STD_TORCH_CHECK(rows > 0, "a table needs values");
  const int64_t period = columns[0].period(), width = shape[0] * period;
  const Tensor table = empty(values[0], ScalarType::Float, {rows, width}, {width, 1});
  auto* row = table.mutable_data_ptr<float>();
  for (size_t k = 0; k < values.size(); ++k)
    for (int64_t t = 0; t < columns[k].steps(); ++t, row += width) {
      const float* const from = values[k].const_data_ptr<float>() + t * columns[k].step();
      columns[k].for_each([&](int64_t column, int64_t element, int64_t count, int64_t stride) {
        if (stride == 0) {
          std::fill_n(row + column, count, from[element]);
        } else {
          for (int64_t e = 0; e < count; ++e) row[column + e] = from[element + e * stride];
        }
      });
      for (int64_t done = period; done < width; done *= 2)
        std::copy_n(row, std::min(done, width - done), row + done);
    }
  return table;
}

Tensors sum_table(const Tensor& grad, const Ints& shape, const Ints& order, const Ints& sizes) {
  Tensors sums;
  std::vector<double> column_sums, element_sums;
  STD_TORCH_CHECK(grad.dim() == 2 && grad.is_contiguous() && grad.scalar_type() == ScalarType::Float,
                  "a table's gradient must be as the table");
  const auto *row = grad.const_data_ptr<float>(), *const end = row + grad.numel();
  for (auto of = sizes.begin(); of != sizes.end(); of += 1 + *of) {
    STD_TORCH_CHECK(*of >= 0 && *of < sizes.end() - of, "sizes must be those of the values");
    Ints strides(*of, 1);
    for (int64_t d = *of - 1; d > 0; --d) strides[d - 1] = strides[d] * of[1 + d];
    const Tensor sum =
        empty(grad, ScalarType::Float, Sizes(&*of + 1, strides.size()), Sizes(strides.data(), strides.size()));
    const Columns columns(shape, order, sum);
    const int64_t period = columns.period(), width = shape[0] * period;
    STD_TORCH_CHECK(width == grad.size(1) && end - row >= columns.steps() * width,
                    "a table's gradient must be as the table");
    element_sums.assign(sum.numel(), 0);
    for (int64_t t = 0; t < columns.steps(); ++t, row += width) {
      column_sums.assign(period, 0);
      for (int64_t r = 0; r < shape[0]; ++r) {
        double* __restrict const to = column_sums.data();
        const float* __restrict const from = row + r * period;
        for (int64_t c = 0; c < period; ++c) to[c] += from[c];
      }
      double* const to = element_sums.data() + t * columns.step();
      columns.for_each([&](int64_t column, int64_t element, int64_t count, int64_t stride) {
        double run[4] = {};
        if (stride) {
          for (int64_t e = 0; e < count; ++e) to[element + e * stride] += column_sums[column + e];
          return;
        }
        for (int64_t e = 0; e < count; ++e) run[e % 4] += column_sums[column + e];
        to[element] += (run[0] + run[1]) + (run[2] + run[3]);
      });
    }
    std::copy(element_sums.begin(), element_sums.end(), sum.mutable_data_ptr<float>());
    sums.push_back(sum);
  }
  return sums;
}

}  // namespace tgo::cpu
