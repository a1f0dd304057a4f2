"""The doors: ``lif()`` and ``scan()`` check their arguments, pick an engine, and are one differentiable operator."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tgo_kernels import noise, ops, own, reference
from tgo_kernels.call import (
    LIFOutput,
    ScanOutput,
    check_input,
    check_state,
    check_tensors,
    lengths_of,
    over_valid,
)
from tgo_kernels.layout import like
from tgo_kernels.library import no_forward_mode
from tgo_kernels.neurons import LIF, Neuron, with_time
from tgo_kernels.neurons.base import GuardSide, Membrane, NoiseMode
from tgo_kernels.packing import note_integers
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
    noise_std: float | Tensor = 0.0,
    noise_mode: NoiseMode = "membrane",
    noise_seed: int | Tensor | None = None,
    noise_step: int = 0,
    guard_margin: float = 0.0,
    guard_side: GuardSide = "both",
    guard_power: int = 1,
    strict: bool = False,
    reset_by: float | Tensor | None = None,
    membrane: Membrane | None = None,
    valid: Tensor | None = None,
    impl: str = "auto",
) -> LIFOutput:
    """Leaky integrate-and-fire over all time steps, with noisy firing and the membrane-distance penalty, in one pass.

    For every neuron, in fp32 whatever the dtype of ``x``; ``leak_bias = (1 - decay) v_reset``, 0 under soft reset::

        h[t] = decay v[t-1] + gain x[t] + leak_bias
        u[t] = h[t] + noise_std xi[t]                      xi ~ N(0, 1), see tgo_kernels.noise
        s[t] = 1 if u[t] >= v_threshold else 0
        v[t] = v_reset if s[t] else w[t]                   hard reset
        v[t] = w[t] - s[t] v_threshold                     soft reset (v_reset=None), or by reset_by
        penalty = 1/(T N) sum_{t,n} max(0, guard_margin - |h[t,n] - v_threshold|) ** guard_power

    where ``w`` is ``u`` (``noise_mode="membrane"``) or ``h`` (``"threshold"``: the noise only decides the spike).
    Penalty: TGO (arXiv 2602.20548), eq. 12. Taking it at ``h``, counting N over the batch, and offering both noise
    modes are our decisions; noise in the membrane is that of Ma, Yan and Tang (arXiv 2305.16044).
    Whether the paper penalises membranes on both sides of the threshold is not certain, and others square the
    distance: ``guard_side`` and ``guard_power``.

    Args:
        x: input current, [T, *] with T >= 1; fp32, fp16 or bf16; any strides. A dense layout (channels-last, transposed
            batch) is processed as it lies, anything else is copied once; so is a layout that permutes more than four
            dimensions by Triton, and where constants are tensors. fp64 with ``impl="reference"``, and then throughout.
        v_init: the state before the first step, [*] fp32; ``v_reset`` (0 under soft reset) if None.
        decay, gain: of the membrane and of the input per step; any framework's LIF has such a pair (see :class:`LIF`).
        v_threshold: fires at ``u >= v_threshold``; ``inf`` never does. These three, ``noise_std`` and ``reset_by`` may
            be fp32 tensors that broadcast to [*], and learn: a scalar, one of each channel (shape [C, 1, 1] for
            images), or one of each neuron. With as many dimensions as x they have a time axis: [T, 1, C, 1, 1] has one
            of each step and channel. Their values are not looked at.
        v_reset: the potential after a spike, or None for soft reset.
        surrogate: the derivative taken for the firing step, at ``u - v_threshold`` (NoisePDF: at ``h - v_threshold``).
        detach_reset: do not differentiate the reset with respect to the spike.
        noise_std: standard deviation of the noise, in units of the membrane; 0 switches it off.
        noise_seed: 64 bits, an int or an int64 tensor on x's device; None draws one from torch's default generator.
        noise_step: the time step of ``x[0]`` in the noise stream, so that a sequence can be run in chunks.
        guard_margin: half-width of the guarded band around the threshold; 0 switches the penalty off.
        guard_side: "both", or "below": only membranes below the threshold are penalised.
        guard_power: 1, or 2: squares, each rounded to 2^-23 of the margin's, so that their sum is exact.
        strict: fire at ``u > v_threshold``, as snnTorch does.
        reset_by: what a soft reset subtracts; ``v_threshold`` if None.
        membrane: an output [T, *] in x's dtype: "h" (charged), "u" (with noise, before the reset) or "v" (after it).
        valid: how many steps each sequence of x [T, B, *] has, integers [B], or a bool mask [T, B] that holds until its
            end. Past it nothing happens: no spikes, no membrane (zeros), no gradient, the state stays, and the penalty
            is the mean over the steps before.
        impl: "auto", "native" (compiled extension), "triton" or "reference" (see :func:`explain_impl`).

    Returns:
        :class:`LIFOutput` (spikes, v_final, penalty, neighbors, fired, membrane). Gradients flow from spikes, v_final,
        penalty and membrane to x, v_init and constants that are tensors. The same bits on every run and thread count
        and, but for gradients of constants, in every layout; the same spikes on every engine.
        Between forward and backward only x, v_init and the seed are kept, and one state every 8 steps where T > 8; of
        each constant that is a tensor a row of a table: for 2^16 to 2^17 neurons (GPU 2^18 to 2^19), or those after
        which they repeat, if these are more.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
        RuntimeError: ``impl`` cannot serve x; or a second differentiation of the gradient.
    """
    neuron = _neuron(
        v_threshold, v_reset, reset_by, surrogate, detach_reset, strict, noise_std, noise_mode, guard_margin,
        guard_side, guard_power, membrane, decay, gain,
    )  # fmt: skip
    check_tensors(x, v_init, neuron, impl)
    spikes, v, penalty, neighbors, fired, further = _scan(neuron, x, v_init, [], noise_seed, noise_step, impl, valid)
    return LIFOutput(spikes, v, penalty, neighbors, fired, further[-1] if neuron.membrane else None)


def _neuron(*constants) -> LIF:
    """The neuron, checked once for all calls."""
    if not torch.compiler.is_compiling():
        try:
            return _known(*constants)
        except TypeError:  # not to be kept, or what the constructor says
            pass
    return LIF(*constants)


@functools.lru_cache(maxsize=256, typed=True)  # which keeps nothing that raises
def _known(*constants) -> LIF:
    # Tensors change, and others' surrogates may be equal and yet differ.
    if any(isinstance(each, Tensor) for each in constants) or type(constants[3]).__module__ != ATan.__module__:
        raise TypeError
    return LIF(*constants)


def run(
    neuron: Any,
    x: Tensor,
    streams: Sequence[Tensor],
    state: Sequence[Tensor] | None,
    noise_seed: int | Tensor | None = None,
    noise_step: int = 0,
    impl: str = "auto",
    valid: Tensor | None = None,
) -> ScanOutput:
    """:func:`scan` for a neuron that is known to be one, and as many streams beside x and states as it has."""
    check_tensors(x, None, neuron, impl)
    if neuron.COUNTS_STEPS:
        if neuron.swapped is not None:
            return _swapped(neuron, x, streams, state, noise_seed, noise_step, impl, valid)
        neuron = neuron.prepared(x, noise_step)
    v, more = None, []
    if streams or len(neuron.INPUTS) > 1:
        for name, stream in zip(neuron.INPUTS[1:], streams, strict=True):
            check_input(name, stream, x)
            more.append(stream)
    if state is not None:
        for name, each in zip(neuron.STATES, state, strict=True):
            check_state(name, each, x)
        v = state[0]
        more += state[1:]
    spikes, v_final, penalty, neighbors, fired, further = _scan(neuron, x, v, more, noise_seed, noise_step, impl, valid)
    after = (v_final, *further[: len(neuron.STATES) - 1]) if further else (v_final,)
    return ScanOutput(spikes, after, penalty, neighbors, fired, further[-1] if neuron.membrane else None)


def _swapped(neuron: Any, x: Tensor, streams: Any, state: Any, seed: Any, *others: Any) -> ScanOutput:
    """What a neuron computes, with the gradients of another, in the same noise."""
    if neuron.noisy and seed is None:
        seed = noise.draw_seed(x.device)
    followed = run(neuron.differentiated(), x, streams, state, seed, *others)
    with torch.no_grad():
        out = run(neuron.replaced(swapped=None), x, streams, state, seed, *others)

    def along(value: Any, other: Any) -> Any:
        return value + (other - other.detach()) if other is not None and other.requires_grad else value

    return out._replace(
        spikes=along(out.spikes, followed.spikes),
        state=tuple(map(along, out.state, followed.state)),
        penalty=along(out.penalty, followed.penalty),
        membrane=along(out.membrane, followed.membrane),
    )


def scan(
    neuron: Neuron,
    inputs: Tensor | Sequence[Tensor],
    state: Tensor | Sequence[Tensor] | None = None,
    *,
    noise_seed: int | Tensor | None = None,
    noise_step: int = 0,
    valid: Tensor | None = None,
    impl: str = "auto",
    **constants: Any,
) -> ScanOutput:
    """Any neuron of :mod:`tgo_kernels.neurons` over all time steps, in one pass.

    Args:
        neuron: its constants, for instance ``tgo_kernels.neurons.AdaptiveLIF(rho=0.95)``.
        inputs: of each of its input streams a tensor [T, *]; one alone may stand for itself.
        state: of each of its states one [*] fp32, before the first step; at rest if None.
        constants: replace the neuron's, for instance ``noise_std``, ``guard_margin`` or ``membrane``.
        others: as in :func:`lif`.

    Returns:
        :class:`ScanOutput` (spikes, state, penalty, neighbors, fired, membrane), with gradients as of :func:`lif`.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
        RuntimeError: ``impl`` cannot serve x; or a second differentiation of the gradient.
    """
    kind = type(neuron)
    if not isinstance(neuron, Neuron):
        what = f"{kind.__module__}.{kind.__name__}"
        raise TypeError(f"neuron must be one of tgo_kernels.neurons, such as neurons.LIF(), got {what}")
    if constants:
        unknown = [name for name in constants if name not in neuron.__dataclass_fields__]
        if unknown:
            raise TypeError(f"{kind.__name__} has no constant {', '.join(unknown)}")
        neuron = neuron.changed(**constants)
    x, *streams = _named(inputs, "input", neuron.INPUTS)
    states = None if state is None else _named(state, "state", neuron.STATES)
    return run(neuron, x, streams, states, noise_seed, noise_step, impl, valid)


def _named(given: Tensor | Sequence[Tensor], kind: str, names: tuple[str, ...]) -> list[Tensor]:
    found = [given] if isinstance(given, Tensor) or not isinstance(given, Sequence) else list(given)
    if len(found) != len(names):
        raise ValueError(f"the neuron has {len(names)} {kind}s, {', '.join(names)}; got {len(found)}")
    return found


def _scan(
    neuron: Neuron,
    x: Tensor,
    v_init: Tensor | None,
    more: list[Tensor],
    noise_seed: int | Tensor | None,
    noise_step: int,
    impl: str,
    valid: Tensor | None,
) -> tuple[Any, ...]:
    """Spikes, the first final state, penalty, neighbors, fired, and a list: further final states, and a membrane."""
    lengths = None if valid is None else lengths_of(valid, x)
    if noise_step != 0 or type(noise_step) is not int:
        noise.check_step(noise_step, x.shape[0])
    traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    if traced:
        if torch.autograd.forward_ad._current_level >= 0:
            no_forward_mode()  # compilers lose tangents
        if neuron.noisy:
            _no_noise_in_onnx()
        impl = _writable(impl)
    device = x.device
    engine = own.choose(type(neuron), impl, device) if neuron.ITS_OWN else ops.choose(impl, device)
    seed = noise.seed_for(neuron.noisy, noise_seed, device) if neuron.noisy or noise_seed is not None else None
    if engine == "reference":
        streams = len(neuron.INPUTS) - 1
        state = None if v_init is None else (v_init, *more[streams:])
        out = reference.scan(neuron, (x, *more[:streams]), state, seed, noise_step, lengths)
        membrane = () if out.membrane is None else (out.membrane,)
        return out.spikes, out.state[0], out.penalty, out.neighbors, out.fired, [*out.state[1:], *membrane]
    table, plan, given, about = None, None, x, neuron.settings
    if neuron.ITS_OWN:
        about = float(own.number_of(type(neuron))), *about[1:]
    if neuron.own:
        table, plan, x = table_of(neuron.own, x)
        about = with_time(about, [each.dim() == x.dim() for each in neuron.own])
    if lengths is not None:
        more = [*more, lengths]
    arguments = x, v_init, more or None, table, seed, noise_step, 0, about
    if traced or torch._C._are_functorch_transforms_active():
        results = ops.OPERATORS[engine][0](*arguments)
    else:
        results = ops.differentiable(engine, *arguments, plan, neuron.own)
    spikes, v_final, penalty, neighbors, fired, _, further = results
    if x is not given:
        spikes = like(torch.empty_like(given), spikes)
        if neuron.membrane:
            further = [*further[:-1], like(spikes, further[-1])]
    if lengths is not None:
        penalty = over_valid(penalty, lengths, x)
    # Asked here, or a small call takes longer.
    if not traced and torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
        note_integers(spikes, largest=neuron.largest)
    return spikes, v_final, penalty, neighbors, fired, further


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
