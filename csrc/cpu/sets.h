// Whether the kernels of x86's wider instruction sets are there: not where only the baseline is asked for.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(TGO_BASELINE)
#define TGO_WIDE 1
#else
#define TGO_WIDE 0
#endif
