// Included first into every source by `make sanitize`: stores past the caches as ordinary ones, which alone are checked.
#if defined(__x86_64__)
#include <immintrin.h>

#define _mm_stream_ps(to, value) (void)(*(__m128*)(to) = (value))
#define _mm256_stream_ps(to, value) (void)(*(__m256*)(to) = (value))
#define _mm512_stream_ps(to, value) (void)(*(__m512*)(to) = (value))
#endif
