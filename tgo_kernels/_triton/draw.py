"""The noise of a thread's neurons: what it is counted by, and the four normals of each."""

import triton
import triton.language as tl

from tgo_kernels._triton.math import NO_NOISE, philox, two_normals


@triton.jit
def counter_of(start, sizes, strides, F: tl.constexpr):
    """What the noise of a thread's neurons is counted by.

    Where the order of memory is the logical one, low and high word of the number of the first pair, or of a single
    neuron's index; else the index of the first neuron, and the distance to the next one's.
    """
    m = start + tl.arange(0, F.block) * F.count
    if F.permuted:
        index = m % sizes[2] * strides[3]
        m = m // sizes[2]
        index += m % sizes[1] * strides[2]
        m = m // sizes[1]
        return index + m % sizes[0] * strides[1] + m // sizes[0] * strides[0], strides[3]
    else:
        UNIT: tl.constexpr = 1 if F.count == 1 else 2
        first = start // UNIT
        return first.to(tl.uint32) + tl.arange(0, F.block).to(tl.uint32) * (F.count // UNIT), (first >> 32).to(
            tl.uint32
        )


@triton.jit
def draw(seed_ptr, counter, block, F: tl.constexpr, STREAM: tl.constexpr = 0):
    """The words of a Philox block: a thread's next pair's, or its next neuron's. And the counter of what follows."""
    if F.noise == NO_NOISE:
        return (), counter
    else:
        # Read anew within a loop over spans, or else the keys of all rounds are kept for it, in twenty registers.
        # As words of 32 bits, or else LLVM makes the keys wider, and of each product by 32 bits one by 64.
        key_ptr = seed_ptr.to(tl.pointer_type(tl.uint32))
        seed = tl.load(key_ptr, volatile=not F.once), tl.load(key_ptr + 1, volatile=not F.once)
        if F.permuted or F.count == 1:
            if F.permuted:
                index, distance = counter
                low, high, following = index.to(tl.uint32), (index >> 32).to(tl.uint32), (index + distance, distance)
            else:
                low, high, following = counter[0], counter[1], counter
            a, b, c, d = philox(seed, low >> 1 | high << 31, high >> 1, block, STREAM)
            odd = (low & 1) == 1
            return (tl.where(odd, c, a), tl.where(odd, d, b)), following
        else:
            return philox(seed, counter[0], counter[1], block, STREAM), (counter[0] + 1, counter[1])


@triton.jit
def noise_of(v, words):
    """The noise of a thread's neuron in the four steps of a block, and the words with its neighbour's at the front."""
    if len(words) == 0:
        return (v, v, v, v), words
    else:
        z0, z1 = two_normals(words[0])
        z2, z3 = two_normals(words[1])
        return (z0, z1, z2, z3), words[2:] + words[:2]


@triton.jit
def held_back(words, x, positive):
    """The words, but as far as the compiler can know not before ``x`` is computed."""
    if len(words) == 0:
        return words
    else:
        bits = x.to(tl.uint32, bitcast=True)
        return (tl.where(positive > 0, words[0], bits), tl.where(positive > 0, words[1], bits)) + words[2:]
