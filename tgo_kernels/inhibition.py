"""Layers with lateral inhibition in the place of a norm: the E-I circuits of DeepEISNN (arXiv 2509.23253)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

from tgo_kernels import neurons
from tgo_kernels.layer import Layer
from tgo_kernels.library import is_plain
from tgo_kernels.neurons import check_bool
from tgo_kernels.surrogate import Sigmoid

OF_LAYER = ("noise_in_eval", "stateful", "impl")  # of the options those that no neuron has
PAPERS = {"v_reset": None, "surrogate": Sigmoid(4.0), "detach_reset": True}  # beside decay=0.5, v_threshold=1
REMEDY = (
    "E-I layers take spikes, their averages, or images in [0, 1]: leave out a Normalize() of mean and deviation, and "
    "put no norm, linear layer or membrane in front of one"
)


class Circuit(nn.Module):
    """What :class:`EILinear` and :class:`EIConv2d` do, whatever their receptive field."""

    W_EE: nn.Parameter
    W_IE: nn.Parameter
    W_EI: nn.Parameter
    g_I: nn.Parameter
    neuron: "Excitatory"
    initialised: Tensor

    def __init__(
        self, outputs: int, field: Sequence[int], inhibitory: int | None, readout: bool, check: bool, options: Any
    ) -> None:
        super().__init__()
        sizes = {"the number of outputs": outputs, "the number of inputs": math.prod(field), "inhibitory": inhibitory}
        for name, size in sizes.items():
            if size is not None and (type(size) is not int or size < 1):
                raise ValueError(f"{name} must be an int >= 1, got {size!r}")
        check_bool("readout", readout)
        check_bool("check", check)
        if readout and options:
            raise TypeError(f"a readout has no neuron, and no {', '.join(options)}")
        inhibitory = max(1, outputs // 4) if inhibitory is None else inhibitory
        self.readout, self.check, self.fan_in = readout, check, math.prod(field)
        self.W_EE = nn.Parameter(torch.zeros(outputs, *field))
        self.W_IE = nn.Parameter(torch.zeros(inhibitory, *field))
        self.W_EI = nn.Parameter(torch.full((outputs, inhibitory), 1 / inhibitory))
        if not readout:
            self.g_I = nn.Parameter(torch.ones(inhibitory))
            self.neuron = _neuron(outputs, dict(options))
        self.register_buffer("initialised", torch.tensor(False))
        self._ready = self._looked = False  # the same, and whether a batch was looked at: nothing has to wait for a GPU

    @property
    def g_E(self) -> nn.Parameter:
        """The neuron's gain, [n_E]."""
        return self.neuron.gain

    @property
    def b_E(self) -> nn.Parameter:
        """The neuron's bias, [n_E], of either sign."""
        return self.neuron.bias

    def nonnegative(self) -> list[Tensor]:
        """The parameters that must not be negative."""
        return [self.W_EE, self.W_IE, self.W_EI, *([] if self.readout else [self.g_I, self.g_E])]

    @torch.compiler.disable
    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """E-I Init: weights for inputs like the batch x, drawn from torch's generator. The first forward does it.

        Raises:
            ValueError: x is negative, not finite or 0 everywhere, or all its samples are the same.
        """
        self._check_shape(x)
        if x.shape[0] * x.shape[1] < 2:
            raise ValueError(f"E-I Init needs a first batch [T, B, *] of two samples T*B, got {tuple(x.shape)}")
        x = x.detach().flatten(0, 1)
        x = x if x.dtype == torch.float64 else x.float()
        found = torch.stack((x.amin(), x.mean(), x.square().mean(), x.var(0).mean())).tolist()
        least, mean, square, variance = found
        _refuse_negative(least)
        if not all(map(math.isfinite, found)) or mean == 0 or variance == 0:
            what = "0 everywhere" if mean == 0 else "the same in every sample" if variance == 0 else "not finite"
            raise ValueError(
                f"the first batch that reaches this {type(self).__name__} is {what}; its weights are made for what "
                "they see, so let a batch of real data pass first, at which the layers in front fire"
            )
        for weight in (self.W_EE, self.W_IE):
            drawn = torch.empty_like(weight, dtype=x.dtype)
            weight.copy_(drawn.exponential_(math.sqrt(self.fan_in * (square + variance) / variance)))
        self.W_EI.fill_(1 / self.W_EI.shape[1])
        if not self.readout:
            self.g_I.fill_(math.sqrt((square + variance) / self.fan_in) / mean)
            self.g_E.fill_(1)
            self.b_E.fill_(0)
        self.initialised.fill_(True)
        self._ready = self._looked = True

    def forward(self, x: Tensor) -> Tensor:
        self._check_shape(x)
        if not self._ready:
            self.initialise(x)
        elif self.check or (not self._looked and is_plain(x) and not x.is_meta):
            _refuse_negative(x.amin().item() if x.numel() else 0)
            self._looked = True
        steps, x = x.shape[:2], x.flatten(0, 1)
        excitation = self._received(x, _nonnegative(self.W_EE)).unflatten(0, steps)
        inhibition = self._received(x, _nonnegative(self.W_IE)).clamp(min=0)
        W_EI = _nonnegative(self.W_EI, self.fan_in)
        subtracted = self._mixed(inhibition, W_EI).unflatten(0, steps)
        if self.readout:
            return excitation - subtracted
        # g_I goes into the weight. Not one product of both: inputs that are stacked would be copied, and of weights
        # that are stacked the results are slices, which the neuron would copy.
        divided = self._mixed(inhibition, W_EI * _nonnegative(self.g_I)).unflatten(0, steps)
        return self.neuron(excitation, subtracted, _without_zeros(divided))

    def _check_shape(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
        if not x.is_floating_point():
            raise TypeError(f"x must have a floating point dtype, got {x.dtype}: images of 0 to 255 are x / 255")
        if x.dim() != self.W_EE.dim() + 1 or x.shape[2] != self.W_EE.shape[1]:
            wanted = ", ".join(["T", "B", str(self.W_EE.shape[1]), *"HW"][: self.W_EE.dim() + 1])
            raise ValueError(f"{type(self).__name__} takes x [{wanted}], got {tuple(x.shape)}")

    def _received(self, x: Tensor, weight: Tensor) -> Tensor:
        """What x [T B, *] becomes by weights of its receptive field."""
        raise NotImplementedError

    def _mixed(self, x: Tensor, weight: Tensor) -> Tensor:
        """[T B, n_I, *] to [T B, n_E, *], by the weight [n_E, n_I] at each pixel."""
        raise NotImplementedError

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        state, prefix = arguments[:2]
        if f"{prefix}W_EE" in state and f"{prefix}initialised" not in state:  # of another implementation, not strict
            self.initialised.fill_(True)
        self._ready, self._looked = bool(self.initialised), False

    def extra_repr(self) -> str:
        return f"{self.fan_in} -> {self.W_EE.shape[0]}, inhibitory={self.W_IE.shape[0]}, readout={self.readout}"


class EILinear(Circuit):
    """Excitation and lateral inhibition, and neurons on them: x [T, B, in] >= 0 to spikes [T, B, n_E].

    DeepEISNN (arXiv 2509.23253), in the place of linear layer, norm and neuron, with n_I inhibitory channels::

        I_EE = W_EE x;    s_I = max(0, W_IE x)
        sub  = W_EI s_I;  div = W_EI (g_I s_I)
        x_E  = g_E (I_EE - sub) / div + b_E
        s    = LIF(x_E), of :class:`tgo_kernels.neurons.InhibitedLIF`

    A div of 0 is replaced by the smallest that is not 0 among all channels (and pixels) of its step and sample; where
    all are 0, by infinity: then ``x_E = b_E``. The max changes nothing where x and weights are not negative, nor does
    it stop a gradient there (the paper has it, the authors' code has not).

    All parameters but b_E are >= 0: a forward takes what is below for 0, and :func:`keep_nonnegative` makes it 0 after
    each step of the optimizer. The paper writes to the parameters in both places; that a forward does not, and that
    what is below 0 has the gradient of a 0, so that it may come back, is our decision.

    Weights come from the first batch (E-I Init, equations 53 and 54): with m and m2 the means of x and of its square,
    var the mean over all inputs of their variance over T and B, and d inputs a neuron::

        W_EE, W_IE ~ Exponential(mean sqrt(var / (d (m2 + var)))),  W_EI = 1/n_I
        g_I = sqrt(m2 + var) / (sqrt(d) m),    g_E = 1,    b_E = 0

    so that x_E has about mean 0 and variance 1. One forward of real data makes all layers of a model, each from what
    those in front of it fire; in ``eval()``, too. It comes before ``fullgraph`` compilation, and before DDP, which does
    not share it. What was loaded from a state_dict or copied is not made again (the buffer ``initialised``; weights
    that are loaded without it are made, too).

    Gradients are those of E-I Prop: past the replacement, as if div had been that, and for W_EI divided by d.

    Args:
        in_features, out_features: as of ``nn.Linear``; there is no bias but b_E.
        inhibitory: n_I; ``max(1, out_features // 4)`` if None, as in the paper.
        readout: return ``I_EE - sub`` alone, [T, B, out], of either sign: no division, neuron, g_E or b_E. Take its
            mean over T.
        check: look for negative inputs in every call, which waits for a GPU; else in the first batch alone, and the
            first after weights were loaded (ours).
        options: constants of :class:`tgo_kernels.neurons.InhibitedLIF`, by default the paper's: ``decay=0.5``,
            ``v_threshold=1``, ``v_reset=None`` (soft), ``surrogate=Sigmoid(4)``, ``detach_reset=True``; and
            ``noise_in_eval``, ``stateful``, ``impl`` of :class:`Layer`, which ``layer.neuron`` is.

    fp32, fp64 with ``impl="reference"``, or bf16 and fp16, under autocast too; any device.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; a negative x, with what to do.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        inhibitory: int | None = None,
        readout: bool = False,
        check: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(out_features, (in_features,), inhibitory, readout, check, options)

    def _received(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)

    _mixed = _received


class EIConv2d(Circuit):
    """:class:`EILinear` of a receptive field: x [T, B, in, H, W] >= 0 to spikes [T, B, n_E, H', W'].

    The two convolutions have the same kernel, stride and padding; W_EI mixes channels at each pixel. d is
    ``in_channels * kernel height * width``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding: as of ``nn.Conv2d``.
        inhibitory, readout, check, options: as of :class:`EILinear`.

    Raises:
        TypeError, ValueError: as :class:`EILinear`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        *,
        inhibitory: int | None = None,
        readout: bool = False,
        check: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(out_channels, (in_channels, *_pair(kernel_size)), inhibitory, readout, check, options)
        self.stride, self.padding = stride, padding

    def _received(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, self.stride, self.padding)

    def _mixed(self, x: Tensor, weight: Tensor) -> Tensor:
        pixels = x.shape[-2:]
        if pixels.numel() <= x.shape[1] or not x.is_contiguous():
            return F.conv2d(x, weight[..., None, None])
        # Faster, by a factor of 2 on CPUs, but its gradient of the weight is at first one of each sample.
        return torch.bmm(weight.expand(len(x), -1, -1), x.flatten(2)).unflatten(2, pixels)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, stride={self.stride}, padding={self.padding!r}"


def keep_nonnegative(optimizer: torch.optim.Optimizer, model: nn.Module) -> Any:
    """After each step of the optimizer, what must not be negative in the model's E-I layers is set to at least 0.

    Any of torch's optimizers does, as it is (a hook, our decision: the paper has an SGD of its own). A copy of the
    optimizer has no hook. Returns what has a ``remove()``.

    Raises:
        ValueError: the model has no E-I layer.
    """
    layers = [module for module in model.modules() if isinstance(module, Circuit)]
    if not layers:
        raise ValueError("keep_nonnegative needs a model with E-I layers; this one has none")

    @torch.no_grad()
    def clamp(*_: Any) -> None:
        for layer in layers:
            for weight in layer.nonnegative():
                weight.clamp_(min=0)

    return optimizer.register_step_post_hook(clamp)


class Excitatory(Layer):
    """The neurons of a circuit, whose gain is not negative."""

    gain: nn.Parameter
    bias: nn.Parameter

    def learned(self, dims: int) -> dict[str, Tensor]:
        found = super().learned(dims)
        return found | {"gain": _nonnegative(found["gain"])}


def _neuron(channels: int, options: dict[str, Any]) -> Excitatory:
    if "gain" in options or "bias" in options:
        raise TypeError("gain and bias of an E-I layer are g_E and b_E, which learn; they start as 1 and 0")
    of_layer = {name: options.pop(name) for name in OF_LAYER if name in options}
    neuron = neurons.InhibitedLIF(**PAPERS | options)
    return Excitatory(neuron, learn=("gain", "bias"), channels=channels, **of_layer)


def _nonnegative(weight: Tensor, divided_by: int = 1) -> Tensor:
    """The weight, or 0 where it is below, with the gradient of the weight, divided by a number."""
    along = weight - weight.detach()
    return weight.detach().clamp(min=0) + (along if divided_by == 1 else along / divided_by)


@torch.no_grad()
def _without_zeros(div: Tensor) -> Tensor:
    """div [T, B, *] >= 0 itself, in which each 0 is now the smallest of its [*] that is not.

    In place, past autograd: what made div has not kept it, and its gradient is that of the replacement.
    """
    least = F.threshold(div, 0.0, math.inf).amin(tuple(range(2, div.dim())), keepdim=True)
    return div.clamp_(min=least)


def _refuse_negative(least: float) -> None:
    if not least >= 0:
        raise ValueError(f"x must be >= 0, but its smallest is {least:g}. {REMEDY}")
