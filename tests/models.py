"""To compare a model with its original: sums that are exact, training curves, results of a call."""

import torch
from torch import nn

import tgo_kernels as tgo


def made_exact(model: nn.Module) -> nn.Module:
    """Weights on a binary grid and norms that do nothing: every order of the same sums has the same bits."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
        for p in module.parameters(recurse=False):
            scale = 0.1 if p.dim() == 1 else 6 / p[0].numel() ** 0.5
            if not isinstance(module, nn.BatchNorm2d):
                with torch.no_grad():
                    p.copy_((torch.randn_like(p) * scale * 64).round() / 64)
    return model


def losses(model: nn.Module, run, x: torch.Tensor, y: torch.Tensor, lr: float = 0.05) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    found = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(run(model, x), y)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def lif_layers(model: nn.Module) -> list[tgo.LIF]:
    return [module for module in model.modules() if isinstance(module, tgo.LIF)]


def x_of(*shape: int) -> torch.Tensor:
    return 3 * torch.rand(*(shape or (4, 3, 6)), generator=torch.Generator().manual_seed(0))


def results(layer: nn.Module, x: torch.Tensor, call=None) -> tuple[torch.Tensor, ...]:
    layer.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(5)
    out = (layer if call is None else call)(x)
    spikes = out[0] if isinstance(out, tuple) else out
    (spikes * torch.linspace(-1, 2, spikes.shape[-1])).sum().backward()
    return spikes, x.grad, *(p.grad for p in layer.parameters())
