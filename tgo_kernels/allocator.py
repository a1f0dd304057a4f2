"""glibc's malloc: by default it gives the pages of large tensors back, and faults in new ones at each call."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST_KEPT = 1 << 30  # bytes


def tune_allocator() -> bool:
    """Let glibc keep the memory of freed tensors below 1 GiB, so that the next ones need no page faults.

    By default glibc maps an allocation of 32 MiB or more anew, and its first use faults in every page: on a CPU that
    costs several times what an elementwise kernel does. This sets ``M_MMAP_THRESHOLD`` to 1 GiB and
    ``M_TRIM_THRESHOLD`` to never, at run time and without ``LD_PRELOAD``. Call it once, before the first large tensor.

    It costs memory: resident memory stays at its highest, and it holds for everything in the process that calls malloc.
    It serves the thread that allocates from the main arena, that is the main thread; allocating workers also want
    ``MALLOC_ARENA_MAX=1`` in the environment. Calling it again changes nothing.

    Returns:
        Whether glibc took both settings. False, and nothing changed, where there is no glibc (macOS, Windows, musl).
        A malloc that is preloaded (jemalloc, tcmalloc) is not touched by it, whatever it returns.
    """
    if not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Trimming alone would make it worse: the mapping goes first, and both or neither.
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)) and bool(mallopt(M_TRIM_THRESHOLD, -1))


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # Windows; another libc
        return False
