"""glibc's malloc: by default it gives the pages of large tensors back, and faults in new ones at each call."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def tune_allocator() -> bool:
    """Let glibc keep the memory of freed tensors, whatever their size, so that the next ones need no page faults.

    By default glibc maps an allocation of 32 MiB or more anew, and its first use faults in every page: on a CPU that
    costs several times what an elementwise kernel does. This sets ``M_MMAP_MAX`` to 0 (everything comes from the heap)
    and ``M_TRIM_THRESHOLD`` to never, at run time and without ``LD_PRELOAD``. Call it once, before the first large
    tensor.

    It costs memory: what is freed stays resident, and it holds for everything in the process that calls malloc. The
    heap also grows beyond what is in use at its highest, in training steps to two or three times that: glibc asks for
    up to 96 bytes beyond an aligned tensor, and where its per-thread cache of small pieces holds what was left of them,
    the gap that the tensor leaves is too short for the next one of its size. With
    ``GLIBC_TUNABLES=glibc.malloc.tcache_count=0`` in the environment when Python starts there is no such cache, and the
    heap stays near what is in use at its highest; small calls then take a tenth longer.

    It serves the thread that allocates from the main arena, that is the main thread; allocating workers also want
    ``MALLOC_ARENA_MAX=1`` in the environment. Calling it again changes nothing.

    Returns:
        Whether glibc took both settings. False, and nothing changed, where there is no glibc (macOS, Windows, musl).
        A malloc that is preloaded (jemalloc, tcmalloc) is not touched by it, whatever it returns.
    """
    if not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Not M_MMAP_THRESHOLD: an int, which ends at 2 GiB, and glibc 2.31 takes no more than 32 MiB.
    # Trimming alone would make it worse: the mapping goes first, and both or neither.
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # Windows; another libc
        return False
