"""To compare a model with its original: sums that are exact, gradients, training curves, results of a call."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import tgo_kernels as tgo


def made_exact(model: nn.Module) -> nn.Module:
    """Weights on a binary grid and norms that do nothing: every order of the same sums has the same bits."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eps = 0.0
            continue
        for p in module.parameters(recurse=False):
            if p.dim():
                scale = 0.1 if p.dim() == 1 else 6 / p[0].numel() ** 0.5
                with torch.no_grad():
                    p.copy_((torch.randn_like(p) * scale * 64).round() / 64)
    return model


def gradients(model, x, run=None):
    """What it, or what runs it, gives for x; and the gradients of x and of its parameters."""
    model.zero_grad()
    leaf = x.clone().requires_grad_()
    y = (run or model)(leaf)
    y.float().mul(torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
    return [y.detach(), leaf.grad, *(p.grad for p in model.parameters())]


def exact(model):
    """In fp64, where rounding moves no spike."""
    model = model.double()
    for module in model.modules():
        if isinstance(module, tgo.LIF):
            module.impl = "reference"
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


def descent(model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int) -> list[float]:
    """The losses of E-I layers that are trained on x [T, B, *] and their labels, their weights kept above 0."""
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    tgo.keep_nonnegative(optimizer, model)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x).mean(0), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
