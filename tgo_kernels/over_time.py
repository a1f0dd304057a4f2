"""The container that runs layers without state on all time steps at once."""

from torch import Tensor, nn

from tgo_kernels.call import not_dense
from tgo_kernels.normed import Normed


class OverTime(nn.Sequential):
    """Modules for [B, *], one after the other, on all time steps in one call: [T, B, *] to [T, B, *].

    ``y[t] = module(x[t])``, computed as one batch of T*B samples. Convolutions, pools, normalisations and ``Flatten``
    take no time axis; Linear and :class:`tgo_kernels.LIF` take x [T, B, *] as it is and need no container. The
    statistics of a BatchNorm in training are those of all steps. Built, indexed and saved as ``nn.Sequential``, with
    the same names in the state_dict; SpikingJelly calls it SeqToANNContainer, and each loads what the other saved.

    Raises:
        ValueError: a module keeps a state from step to step (it has a ``reset`` or ``reset_mem``), or is itself an
            OverTime; x has less than two dimensions; a module returns other than one tensor of T*B samples.
    """

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(*modules)
        self._check()

    def _check(self) -> None:
        for name, module in self.named_modules():
            if module is not self and (
                isinstance(module, OverTime) or hasattr(module, "reset") or hasattr(module, "reset_mem")
            ):
                raise ValueError(
                    f"OverTime takes modules without a time axis, but {name} is {type(module).__name__}: it would take "
                    "the T*B samples for time steps; put it beside OverTime, not in it"
                )

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor) and x.is_nested:
            raise not_dense("x", x)
        if isinstance(x, Tensor) and x.dim() < 2:  # torch.fx traces with what is no tensor
            raise ValueError(f"OverTime takes x of shape [T, B, *], got {tuple(x.shape)}")
        self._check()  # modules may have been added, at any depth
        y = super().forward(x.flatten(0, 1))
        if isinstance(x, Tensor) and (not isinstance(y, Tensor | Normed) or y.shape[:1] != (x.shape[0] * x.shape[1],)):
            what = f"shape {tuple(y.shape)}" if isinstance(y, Tensor | Normed) else type(y).__name__
            raise ValueError(f"OverTime needs one tensor of T*B = {x.shape[0] * x.shape[1]} samples, got {what}")
        return y.unflatten(0, x.shape[:2])

    def __prepare_scriptable__(self) -> None:
        raise RuntimeError(
            "torch.jit.script cannot compile OverTime; torch.jit.trace, torch.export and torch.compile can"
        )
