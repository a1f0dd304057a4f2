// Which kernel serves a call to a neuron. Beside kernels_impl.h, also for neurons of users, compiled where they are used:
// the including file names the instruction set as it does there.
#include <utility>

#include "vectors.h"

#include "spans.h"

namespace tgo::cpu::TGO_ISA {
namespace {

// f<Form>() for what a call is, as far as kernels are compiled to know it.
template <class Step, class S, class Body>
void with_form(const Kind& kind, const Body& f) {
  const auto one = [&]<uint32_t own, Noise noise, Reset reset, bool guard>() {
    using Flags = Known<noise, reset, guard>;
    return Flags::is(kind.firing) && (f.template operator()<Form<Step, S, Flags, own>>(), true);
  };
  const auto plain = [&]<uint32_t own>() {
    return one.template operator()<own, Noise::kNone, Reset::kHard, false>() ||
           one.template operator()<own, Noise::kNone, Reset::kSoft, false>();
  };
  const auto both = [&]<Noise noise, bool guard>() {
    return one.template operator()<0, noise, Reset::kHard, guard>() ||
           one.template operator()<0, noise, Reset::kSoft, guard>();
  };
  constexpr bool lif = std::is_same_v<Step, Lif>;
  if (kind.own == 0 && !kind.rare) {
    if (plain.template operator()<0>()) return;
    if constexpr (lif)
      if (both.template operator()<Noise::kNone, true>() || both.template operator()<Noise::kMembrane, true>()) return;
    return f.template operator()<Form<Step, S, Any, 0>>();
  }
  if constexpr (lif)
    if ((kind.own & ~kUsualOwn) == 0 && !kind.rare) {
      if ((kind.own & ~kNormOwn) == 0 && plain.template operator()<kNormOwn>()) return;
      if (plain.template operator()<kUsualOwn>()) return;
      return f.template operator()<Form<Step, S, Any, kUsualOwn>>();
    }
  f.template operator()<Form<Step, S, Any, kAllOwn>>();
}

// LIF, which is what is called most, takes rows as they are stored.
template <class Step, class Body>
void with_storage(const Kind& kind, const Body& f) {
  if constexpr (std::is_same_v<Step, Lif>)
    as_stored(kind.storage, [&]<class S>() { with_form<Step, S>(kind, f); });
  else
    with_form<Step, float>(kind, f);
}

template <class Step>
ForwardKernel forward_for(const Kind& kind) {
  ForwardKernel found = nullptr;
  with_storage<Step>(kind, [&]<class Form>() { found = forward<Form>; });
  return found;
}

template <class Step>
BackwardKernel backward_for(const Kind& kind) {
  BackwardKernel found = nullptr;
  with_storage<Step>(kind, [&]<class Form>() { found = backward<Form>; });
  return found;
}

template <class Step>
constexpr NeuronKernels kernels_for = {forward_for<Step>, backward_for<Step>};

}  // namespace
}  // namespace tgo::cpu::TGO_ISA
