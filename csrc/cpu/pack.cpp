// Tensors of at most eight different values as bits: the number of each element's value, in planes of a bit each.
//
// Values are told apart by their bits alone, so that what is unpacked is what was packed. They are looked for in a few
// samples, and while packing: where one is met that is not known, all is packed again with it.
#include "pack.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "../call.h"
#include "kernels.h"
#include "walk.h"

namespace tgo::cpu {
namespace {

constexpr int64_t kHeader = sizeof(Codes) / sizeof(uint64_t);
constexpr int64_t kGrain = 256;   // words that are worth a thread
constexpr int64_t kSamples = 512;
static_assert(sizeof(Codes) % sizeof(uint64_t) == 0);

int64_t words_of(int64_t elements) { return (elements + kWord - 1) / kWord; }

// The elements of a tensor that has a data pointer and few enough of them to matter.
class Elements {
 public:
  Elements(const void* data, int64_t count, int64_t size)
      : data_(static_cast<const char*>(data)), count_(count), size_(size) {}

  int64_t count() const { return count_; }
  int64_t size() const { return size_; }
  const char* at(int64_t i) const { return data_ + i * size_; }

  uint32_t operator[](int64_t i) const {
    uint32_t bits = 0;
    std::memcpy(&bits, at(i), size_);
    return bits;
  }

 private:
  const char* data_;
  int64_t count_, size_;
};

// False where there are too many.
bool learn(Codes* codes, const Elements& x, int64_t from, int64_t count, int64_t step = 1) {
  for (int64_t i = 0; i < count; ++i)
    if (!codes->knows(x[from + i * step]) && !codes->add(x[from + i * step])) return false;
  return true;
}

// Packs words of x, and adds to `codes` what it meets: false where that is too much.
bool pack_words(const Elements& x, int64_t begin, int64_t end, Codes* codes, uint64_t* to, int64_t apart) {
  const Codes given = *codes;
  const int64_t whole = std::min(end, x.count() / kWord);
  for (int64_t w = begin; w < whole;) {
    w += best_kernels().pack(x.at(w * kWord), x.size(), whole - w, *codes, to + w, apart);
    if (w < whole && !learn(codes, x, w * kWord, kWord)) return false;
    if (codes->planes() != given.planes()) break;  // there is no room for it
  }
  if (whole < end) {
    const int64_t rest = x.count() - whole * kWord;
    if (!learn(codes, x, whole * kWord, rest)) return false;
    alignas(64) char last[kWord * sizeof(uint32_t)];
    for (int64_t j = 0; j < kWord; ++j)
      std::memcpy(last + j * x.size(), x.at(j < rest ? whole * kWord + j : 0), x.size());
    if (codes->planes() == given.planes()) best_kernels().pack(last, x.size(), 1, *codes, to + whole, apart);
  }
  return true;
}

}  // namespace

Tensor pack(const Tensor& x) {
  const Elements elements(x.const_data_ptr(), x.numel(), x.element_size());
  STD_TORCH_CHECK(elements.size() == 4 || elements.size() == 2, "pack takes elements of 2 or 4 bytes");
  Codes codes;
  const int64_t count = elements.count(), words = words_of(count), samples = std::min(count, kSamples);
  const Tensor none = row(x, 0, ScalarType::Long);
  if (!count || !learn(&codes, elements, 0, samples)) return none;
  if (!learn(&codes, elements, 0, samples, count / samples)) return none;
  for (;;) {
    Codes found = codes;
    const Tensor packed = row(x, kHeader + codes.planes() * words, ScalarType::Long);
    auto* const to = reinterpret_cast<uint64_t*>(packed.mutable_data_ptr<int64_t>());
    bool few = true;
    std::mutex adding;
    torch::stable::parallel_for(0, words, kGrain, [&](int64_t begin, int64_t end) {
      Codes mine = codes;
      const bool fits = pack_words(elements, begin, end, &mine, to + kHeader, words);
      if (fits && mine.size == codes.size) return;
      const std::lock_guard<std::mutex> lock(adding);
      few = few && fits;
      for (int k = 0; k < mine.size; ++k) few = few && (found.knows(mine.of[k]) || found.add(mine.of[k]));
    });
    if (!few) return none;
    if (found.size == codes.size) {
      std::memcpy(to, &codes, sizeof(codes));
      return packed;
    }
    codes = found;
  }
}

void unpack(const Tensor& packed, Tensor x) {
  const int64_t count = x.numel(), size = x.element_size(), words = words_of(count);
  STD_TORCH_CHECK(packed.scalar_type() == ScalarType::Long && packed.is_contiguous() && packed.numel() >= kHeader,
                  "packed must be what pack returned");
  const auto* from = reinterpret_cast<const uint64_t*>(packed.const_data_ptr<int64_t>());
  Codes codes;
  std::memcpy(static_cast<void*>(&codes), from, sizeof(codes));
  STD_TORCH_CHECK(packed.numel() == kHeader + codes.planes() * words, "packed must be of a tensor as large as x");
  from += kHeader;
  char* const to = static_cast<char*>(x.mutable_data_ptr());
  torch::stable::parallel_for(0, words, kGrain, [&](int64_t begin, int64_t end) {
    const int64_t whole = std::min(end, count / kWord);
    best_kernels().unpack(from + begin, words, whole - begin, codes, size, to + begin * kWord * size);
    if (whole == end) return;
    alignas(64) char last[kWord * sizeof(uint32_t)];
    best_kernels().unpack(from + whole, words, 1, codes, size, last);
    std::memcpy(to + whole * kWord * size, last, (count - whole * kWord) * size);
  });
}

}  // namespace tgo::cpu
