// What the CPU kernels compute in calls by chance, a digest a line: the same on every processor and by every compiler.
// KERNELS is the instruction set: generic, avx2 or avx512. No torch is needed. See tests/portable.py.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "../csrc/cpu/kernels.h"

using namespace tgo;
using namespace tgo::cpu;

namespace {

constexpr int kScans = 400, kOthers = 60;
const Kernels& kernels = KERNELS::kernels;

// SplitMix64.
struct Chance {
  uint64_t state;

  uint64_t next() {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  int below(int n) { return int(next() >> 33) % n; }
  bool heads() { return below(2); }
  float between(float low, float high) { return low + (high - low) * float(next() >> 40) * 0x1p-24f; }
};

// FNV-1a.
struct Digest {
  uint64_t value = 0xCBF29CE484222325u;

  void add(const void* data, size_t size) {
    for (size_t i = 0; i < size; ++i) value = (value ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001B3u;
  }
};

int64_t bytes_of(Storage storage) { return storage == Storage::kFloat ? 4 : 2; }

// Rows that vectors may be read from, past their end.
struct Block {
  std::vector<char> bytes;
  char* data;

  explicit Block(int64_t size) : bytes(size + 1024), data(bytes.data() + 64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64) {}
  float* floats() { return reinterpret_cast<float*>(data); }
};

Block row_of(Chance& chance, int64_t len, float low, float high, Storage storage = Storage::kFloat) {
  Block values(len * 4), row(len * 4);
  for (int64_t j = 0; j < len; ++j) values.floats()[j] = chance.between(low, high);
  if (storage == Storage::kFloat) return values;
  kernels.narrow(storage, values.floats(), row.data, len);
  return row;
}

std::vector<Block> rows_of(Chance& chance, int count, int64_t len, float low, float high, Storage storage) {
  std::vector<Block> rows;
  for (int i = 0; i < count; ++i) rows.push_back(row_of(chance, len, low, high, storage));
  return rows;
}

Any firing_of(Chance& chance) {
  Any any{};
  any.noise = Noise(chance.below(3));
  any.reset = Reset(chance.below(3));
  any.membrane = Membrane(chance.below(4));
  any.curve = Curve(chance.below(kCurves));
  any.curve_height = chance.between(0.5f, 2.f), any.curve_scale = chance.between(0.5f, 4.f);
  any.guard = chance.heads(), any.guard_margin = any.guard ? chance.between(0.1f, 0.7f) : 0.f;
  any.pull = chance.between(-0.01f, 0.01f);
  if (any.guard && chance.heads()) any.grid = 0x1p10f;
  any.below = any.guard && chance.heads();
  any.strict = chance.heads(), any.surrogate_at_h = chance.heads(), any.detach_reset = chance.heads();
  if (chance.below(3) == 0) any.noise = Noise::kNone, any.membrane = Membrane::kNone, any.below = any.strict = false;
  return any;
}

// Some steps of a block of neurons, and back.
void scan(int number) {
  Chance chance{uint64_t(number)};
  const int neuron = number % Neurons::kCount;
  const Shape shape = Neurons::shapes[neuron];
  const Any any = firing_of(chance);
  const Storage storage = neuron ? Storage::kFloat : Storage(chance.below(3));
  const int64_t len = 1 + chance.below(150), steps = 1 + chance.below(kMaxChunk);
  const bool rare = chance.below(4) == 0;
  Kind kind{any, storage, 0, rare};
  Digest digest;

  Block numbers = row_of(chance, kMaxConstants, 0.1f, 0.9f), rests = row_of(chance, kMaxStates, 0.f, 0.1f);
  std::vector<Block> own = rows_of(chance, shape.constants, len, 0.1f, 0.9f, Storage::kFloat);
  std::vector<Block> states = rows_of(chance, shape.states, len, -0.5f, 0.5f, Storage::kFloat);
  std::vector<std::vector<Block>> inputs;
  for (int k = 0; k < shape.inputs; ++k) inputs.push_back(rows_of(chance, kMaxChunk, len, k ? 0.2f : -1.f, 2.f, storage));
  Block lengths(len * 4);
  for (int64_t j = 0; j < len; ++j) reinterpret_cast<int32_t*>(lengths.data)[j] = chance.below(kMaxChunk + 2);

  std::vector<Block> noise;
  for (int i = 0; i < 2 * kStepsPerBlock; ++i) noise.emplace_back(kBlock * 4);
  const int64_t first = chance.below(1000);
  std::vector<int64_t> index(len + 64);
  for (int64_t j = 0; j < len; ++j) index[j] = (first + j) * 7 % 1009;
  const bool permuted = chance.heads();
  const uint64_t seed = chance.next();
  for (uint32_t q = 0; q < 2; ++q) {
    float* z[kStepsPerBlock];
    const void* fetched[kStepsPerBlock] = {};
    const void* const* next[2] = {fetched, fetched};
    for (int i = 0; i < kStepsPerBlock; ++i) z[i] = noise[q * kStepsPerBlock + i].floats();
    kernels.noise(seed, permuted ? index.data() : nullptr, 0, first, len, q, z, next, 4);
    for (int i = 0; i < kStepsPerBlock; ++i) digest.add(z[i], len * 4);
  }

  const auto fill = [&](auto& w) {
    w.len = len;
    w.numbers = numbers.floats(), w.rests = rests.floats();
    w.columns = len;
    w.lengths = rare ? reinterpret_cast<int32_t*>(lengths.data) : nullptr;
    for (int k = 0; k < shape.constants; ++k) w.own[k] = kind.own >> k & 1 ? own[k].floats() : nullptr;
  };
  if (chance.heads())
    for (int k = 0; k < shape.constants; ++k) kind.own |= uint32_t(chance.heads()) << k;
  const bool at_rest = chance.heads();

  std::vector<Block> spikes, membranes, after;
  for (int i = 0; i < kMaxChunk; ++i) spikes.emplace_back(len * 4), membranes.emplace_back(len * 4);
  for (int k = 0; k < shape.states; ++k) after.emplace_back(len * 4);
  Totals totals;
  for (int64_t from = 0; from < steps; from += kStepsPerBlock) {
    ForwardWork w{};
    fill(w);
    w.t = from, w.steps = std::min<int64_t>(kStepsPerBlock, steps - from);
    for (int64_t i = 0; i < w.steps; ++i) {
      for (int k = 0; k < shape.inputs; ++k) w.inputs[k][i] = inputs[k][from + i].data;
      w.xi[i] = noise[from + i].floats();
      w.spikes[i] = spikes[from + i].data, w.membrane[i] = membranes[from + i].data;
    }
    for (int k = 0; k < shape.states; ++k) {
      w.before[k] = from ? after[k].floats() : at_rest ? nullptr : states[k].floats();
      w.after[k] = after[k].floats();
    }
    kernels.neurons[neuron].forward(kind)(any, w, &totals);
  }
  for (int64_t i = 0; i < steps; ++i) {
    digest.add(spikes[i].data, len * bytes_of(storage));
    if (any.membrane != Membrane::kNone) digest.add(membranes[i].data, len * bytes_of(storage));
  }
  for (Block& each : after) digest.add(each.data, len * 4);
  if (any.guard) digest.add(&totals, sizeof(totals));
  digest.add(&totals.fired, sizeof(totals.fired));

  std::vector<Block> g_spikes = rows_of(chance, kMaxChunk, len, -1.f, 1.f, storage);
  std::vector<Block> g_membrane = rows_of(chance, kMaxChunk, len, -1.f, 1.f, storage);
  std::vector<Block> g_after = rows_of(chance, shape.states, len, -1.f, 1.f, Storage::kFloat), g_before, g_own;
  std::vector<std::vector<Block>> g_inputs(shape.inputs);
  BackwardWork w{};
  fill(w);
  w.steps = steps, w.first_neurons = w.first = true;
  for (int64_t i = 0; i < steps; ++i) {
    for (int k = 0; k < shape.inputs; ++k) {
      w.inputs[k][i] = inputs[k][i].data;
      w.g_inputs[k][i] = g_inputs[k].emplace_back(len * 4).data;
    }
    w.xi[i] = noise[i].floats();
    w.g_spikes[i] = g_spikes[i].data, w.g_membrane[i] = g_membrane[i].data;
  }
  for (int k = 0; k < shape.states; ++k) {
    w.before[k] = at_rest ? nullptr : states[k].floats();
    w.g_after[k] = g_after[k].floats();
    w.g_before[k] = g_before.emplace_back(len * 4).floats();
  }
  for (int k = 0; k < shape.constants; ++k) w.g_own[k] = g_own.emplace_back(len * 4).floats();
  kernels.neurons[neuron].backward(kind)(any, w);
  for (auto& each : g_inputs)
    for (Block& row : each) digest.add(row.data, len * bytes_of(storage));
  for (Block& each : g_before) digest.add(each.data, len * 4);
  for (int k = 0; k < shape.constants; ++k)
    if (kind.own >> k & 1) digest.add(g_own[k].data, len * 4);
  std::printf("scan %d, neuron %d: %016llx\n", number, neuron, static_cast<unsigned long long>(digest.value));
}

// Storage, bits, spikes by chance, pools and norms.
void others(int number) {
  Chance chance{uint64_t(number) << 32};
  const Storage storage = Storage(number % 3);
  const int64_t len = 1 + chance.below(150), size = bytes_of(storage);
  Digest digest;
  Block x = row_of(chance, 64 * 64, -3.f, 3.f, storage), back(64 * 64 * 4);
  kernels.widen(storage, x.data, back.floats(), len);
  digest.add(back.data, len * 4);

  Chances c{x.data, {}, len, chance.heads()};
  std::vector<Block> rows;
  for (void*& row : c.rows) row = rows.emplace_back(len * 4).data;
  const uint64_t seed = chance.next();
  const int64_t first = chance.below(100);
  kernels.spikes(seed, nullptr, 1, first, uint32_t(chance.below(9)), storage, c);
  for (Block& row : rows) digest.add(row.data, len * size);

  Codes codes;
  Block few(64 * 4 * size), planes(kMaxPlanes * 4 * 8), again(64 * 4 * size);
  for (uint32_t k = 0, values = 2 + chance.below(7); k < values; ++k) codes.add(k * 0x1C01u);
  for (int64_t j = 0; j < 4 * kWord; ++j) memcpy(few.data + j * size, &codes.of[chance.below(codes.size)], size);
  auto* const words = reinterpret_cast<uint64_t*>(planes.data);
  if (kernels.pack(few.data, size, 4, codes, words, 4) != 4) std::abort();
  kernels.unpack(words, 4, 4, codes, size, again.data);
  if (memcmp(few.data, again.data, 4 * kWord * size)) std::abort();
  digest.add(words, codes.planes() * 4 * 8);

  Pool pool{};
  pool.inner = number % 2 ? 1 : 1 + chance.below(20);
  const bool quads = number % 4 == 1;
  for (int d = 0; d < 2; ++d) {
    pool.size[d] = 2 * (3 + chance.below(5)), pool.dilation[d] = 1;
    pool.window[d] = quads ? 2 : 3, pool.stride[d] = 2, pool.padding[d] = quads ? 0 : 1;
    pool.outputs[d] = pool.size[d] / 2;
  }
  Block best(pool.elements() * 4), outputs(pool.elements() * 4), winners(pool.elements()), signs(pool.inner * 4);
  Block plane = row_of(chance, pool.elements(), -2.f, 2.f, storage), g_plane(pool.elements() * 4);
  pool.best = best.floats();
  for (int64_t k = 0; k < pool.inner; ++k) signs.floats()[k] = chance.heads() ? 1.f : -1.f;
  kernels.pool_outputs(pool, storage, plane.data, signs.floats(), outputs.data, reinterpret_cast<uint8_t*>(winners.data));
  const int64_t count = pool.outputs[0] * pool.row();
  digest.add(outputs.data, count * size), digest.add(winners.data, count);
  kernels.pool_back(pool, storage, outputs.data, reinterpret_cast<uint8_t*>(winners.data), g_plane.data);
  digest.add(g_plane.data, pool.elements() * size);

  std::vector<double> sums(len), squares(len);
  kernels.column_sums(storage, x.data, 9, len, len, sums.data(), squares.data());
  digest.add(sums.data(), len * 8), digest.add(squares.data(), len * 8);
  Block g = row_of(chance, len, -1.f, 1.f, storage), slope = row_of(chance, len, -1.f, 1.f), offset = row_of(chance, len, -1.f, 1.f);
  kernels.add_affine(storage, g.data, x.data, slope.floats(), offset.floats(), number % 2, len);
  digest.add(g.data, len * size);
  std::printf("others %d: %016llx\n", number, static_cast<unsigned long long>(digest.value));
}

}  // namespace

int main() {
  for (int number = 0; number < kScans; ++number) scan(number);
  for (int number = 0; number < kOthers; ++number) others(number);
}
