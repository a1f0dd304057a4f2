#include "isa_generic.h"
#include "kernels_impl.h"
