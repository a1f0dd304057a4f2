// torch's parallel_for on two threads of the standard library, loaded before torch's own by tests/sanitize.py: those that
// OpenMP starts and meets are invisible to ThreadSanitizer, which would report races everywhere.
#include <cstdint>
#include <cstdlib>
#include <thread>

extern "C" int32_t torch_parallel_for(int64_t begin, int64_t end, int64_t, void (*run)(int64_t, int64_t, void*),
                                      void* context) {
  const int64_t middle = begin + (end - begin + 1) / 2;
  // A planted race: the first range of both threads.
  const int64_t second = std::getenv("TGO_PLANTED_RACE") ? begin : middle;
  std::thread other([=] {
    if (second < end) run(second, end, context);
  });
  if (begin < middle) run(begin, middle, context);
  other.join();
  return 0;
}
