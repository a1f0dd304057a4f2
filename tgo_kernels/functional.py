"""The door: ``lif()`` checks its arguments, picks an engine, and is one differentiable operator."""

import functools

import torch
from torch import Tensor

from tgo_kernels import noise, ops, reference
from tgo_kernels.layout import like
from tgo_kernels.library import no_forward_mode
from tgo_kernels.neuron import LIFOutput, Neuron, NoiseMode, check_tensors
from tgo_kernels.surrogate import ATan, Surrogate
from tgo_kernels.table import table_of


def lif(
    x: Tensor,
    v_init: Tensor | None = None,
    *,
    decay: float | Tensor = 0.5,
    gain: float | Tensor = 1.0,
    v_threshold: float | Tensor = 1.0,
    v_reset: float | None = 0.0,
    surrogate: Surrogate = ATan(2.0),
    detach_reset: bool = False,
    noise_std: float = 0.0,
    noise_mode: NoiseMode = "membrane",
    noise_seed: int | Tensor | None = None,
    noise_step: int = 0,
    guard_margin: float = 0.0,
    impl: str = "auto",
) -> LIFOutput:
    """Leaky integrate-and-fire over all time steps, with noisy firing and the membrane-distance penalty, in one pass.

    For every neuron, in fp32 whatever the dtype of ``x``; ``leak_bias = (1 - decay) v_reset``, 0 under soft reset::

        h[t] = decay v[t-1] + gain x[t] + leak_bias
        u[t] = h[t] + noise_std xi[t]                      xi ~ N(0, 1), see tgo_kernels.noise
        s[t] = 1 if u[t] >= v_threshold else 0
        v[t] = v_reset if s[t] else w[t]                   hard reset
        v[t] = w[t] - s[t] v_threshold                     soft reset (v_reset=None)
        penalty = 1/(T N) sum_{t,n} max(0, guard_margin - |h[t,n] - v_threshold|)

    where ``w`` is ``u`` (``noise_mode="membrane"``) or ``h`` (``"threshold"``: the noise only decides the spike).
    Penalty: TGO (arXiv 2602.20548), eq. 12. Taking it at ``h``, counting N over the batch, and offering both noise
    modes are our decisions; noise in the membrane is that of Ma, Yan and Tang (arXiv 2305.16044).

    Args:
        x: input current, [T, *] with T >= 1; fp32, fp16 or bf16; any strides. A dense layout (channels-last, transposed
            batch) is processed as it lies, anything else is copied once; so is a layout that permutes more than four
            dimensions by Triton, and where constants are tensors. fp64 with ``impl="reference"``, and then throughout.
        v_init: the state before the first step, [*] fp32; ``v_reset`` (0 under soft reset) if None.
        decay, gain: of the membrane and of the input per step; any framework's LIF has such a pair (see :class:`LIF`).
        v_threshold: fires at ``u >= v_threshold``. These three may be fp32 tensors that broadcast to [*], and learn: a
            scalar, one of each channel (shape [C, 1, 1] for images), or one of each neuron. Their values are not
            looked at.
        v_reset: the potential after a spike, or None for soft reset.
        surrogate: the derivative taken for the firing step, at ``u - v_threshold`` (NoisePDF: at ``h - v_threshold``).
        detach_reset: do not differentiate the reset with respect to the spike.
        noise_std: standard deviation of the noise, in units of the membrane; 0 switches it off.
        noise_seed: 64 bits, an int or an int64 tensor on x's device; None draws one from torch's default generator.
        noise_step: the time step of ``x[0]`` in the noise stream, so that a sequence can be run in chunks.
        guard_margin: half-width of the guarded band around the threshold; 0 switches the penalty off.
        impl: "auto", "native" (compiled extension), "triton" or "reference" (see :func:`explain_impl`).

    Returns:
        :class:`LIFOutput` (spikes, v_final, penalty, neighbors, fired). Gradients flow from spikes, v_final and penalty
        to x, v_init and constants that are tensors. The same bits on every run and thread count and, but for gradients
        of constants, in every layout; the same spikes on every engine.
        Between forward and backward only x, v_init and the seed are kept, and one state every 8 steps where T > 8; of
        constants that are tensors a table of three rows: for 2^16 to 2^17 neurons (GPU 2^18 to 2^19), or those after
        which they repeat, if these are more.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
        RuntimeError: ``impl`` cannot serve x; or a second differentiation of the gradient.
    """
    neuron = _neuron(decay, gain, v_threshold, v_reset, surrogate, detach_reset, noise_std, noise_mode, guard_margin)
    return run(x, v_init, neuron, noise_seed, noise_step, impl)


_known = functools.lru_cache(maxsize=256, typed=True)(Neuron)


def _neuron(*constants) -> Neuron:
    """The neuron, checked once for all calls; others' surrogates may be equal and yet differ, and are checked anew."""
    own = isinstance(constants[0], Tensor) or isinstance(constants[1], Tensor) or isinstance(constants[2], Tensor)
    if not own and type(constants[4]).__module__ == ATan.__module__ and not torch.compiler.is_compiling():
        try:
            return _known(*constants)
        except TypeError:  # unhashable: the constructor says which
            pass
    return Neuron(*constants)


def run(
    x: Tensor, v_init: Tensor | None, neuron: Neuron, noise_seed: int | Tensor | None, noise_step: int, impl: str
) -> LIFOutput:
    """:func:`lif` for constants that are already a :class:`Neuron`."""
    check_tensors(x, v_init, neuron, impl)
    noise.check_step(noise_step, x.shape[0])
    traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    if traced:
        if torch.autograd.forward_ad._current_level >= 0:
            no_forward_mode()  # compilers lose tangents
        if neuron.noise_std > 0:
            _no_noise_in_onnx()
        impl = _writable(impl)
    device = x.device
    engine = ops.choose(impl, device)
    plainly = neuron.noise_std == 0 and noise_seed is None
    seed = None if plainly else noise.seed_for(neuron.noise_std, noise_seed, device)
    if engine == "reference":
        return reference.run(x, v_init, seed, noise_step, neuron)
    table, given = None, x
    if neuron.own is not None:
        table, x = table_of(neuron.own, x)
    arguments = x, v_init, table, seed, noise_step, 0, neuron.constants
    if traced or torch._C._are_functorch_transforms_active():
        results = ops.OPERATORS[engine][0](*arguments)
    else:
        results = ops.differentiable(engine, *arguments)
    out = LIFOutput(*results[:5])
    return out if x is given else out._replace(spikes=like(torch.empty_like(given), out.spikes))


@torch.compiler.assume_constant_result
def _no_noise_in_onnx() -> None:
    if torch.onnx.is_in_onnx_export():
        raise RuntimeError("noise cannot be written as ONNX: write the model in eval(), with noise_in_eval=False")


@torch.compiler.assume_constant_result
def _writable(impl: str) -> str:
    """The engine to ask for in a graph: ONNX knows plain torch alone."""
    if not torch.onnx.is_in_onnx_export():
        return impl
    if impl not in ("auto", "reference"):
        raise RuntimeError(
            f"impl={impl!r} cannot be written as ONNX: make the layers impl='reference' for it, or 'auto'"
        )
    return "reference"
