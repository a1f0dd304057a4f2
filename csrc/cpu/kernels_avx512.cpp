#include "sets.h"

#if TGO_WIDE
#include "isa_avx512.h"
#include "kernels_impl.h"
#endif
