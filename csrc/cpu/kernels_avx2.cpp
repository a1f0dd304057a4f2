#include "sets.h"

#if TGO_WIDE
#include "isa_avx2.h"
#include "kernels_impl.h"
#endif
