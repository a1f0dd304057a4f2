// The baseline of the platform: what every machine of this architecture runs.
#include "kernels.h"

namespace tgo::cpu::generic {
typedef uint64_t Lanes __attribute__((vector_size(16)));
struct Multiply {
  TGO_HD Lanes operator()(Lanes word, uint32_t by) const {
    return (word & 0xFFFFFFFFu) * uint64_t(by);
  }
};
}  // namespace tgo::cpu::generic

#define TGO_ISA generic
#define TGO_ISA_NAME "generic"
#include "kernels_impl.h"
