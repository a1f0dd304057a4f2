"""NAA is what its formulas say, on spikes of every framework."""

import pytest
import snntorch
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn
from victims import Scale, grey

import tgo_kernels as tgo
from tgo_kernels.interop import spikingjelly as convert_spikingjelly
from tgo_kernels.robustness import Victim, accuracy, attacks, naa, withstood
from tgo_kernels.robustness.attribution import weights
from tgo_kernels.robustness.spikes import chosen

EPS = attacks.EPS


class Tiny(nn.Module):
    """Three layers of neurons; the spikes of the second are a function of the image, and the logits one of them."""

    def __init__(self, noise_std: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        options = {"noise_std": noise_std, "noise_in_eval": True}
        self.fc1, self.lif1 = nn.Linear(9, 12), tgo.LIF.from_decay(0.5, **options)
        self.fc2, self.lif2 = nn.Linear(12, 8), tgo.LIF.from_decay(0.5, **options)
        self.fc3, self.lif3 = nn.Linear(8, 3), tgo.LIF.from_decay(0.5, **options)
        with torch.no_grad():
            for fc in (self.fc1, self.fc2, self.fc3):
                fc.weight.mul_(4)

    def spikes(self, x: Tensor) -> Tensor:
        return self.lif2(self.fc2(self.lif1(self.fc1(x.flatten(1)).expand(4, -1, -1))))

    def logits(self, spikes: Tensor) -> Tensor:
        return self.lif3(self.fc3(spikes)).mean(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.spikes(x))


def by_hand(
    net: Tiny, images: Tensor, y: Tensor, steps: int, blends: int, variant: str, rates: bool, draws: int
) -> Tensor:
    """NAA, written down once more: image by image where it is of each image, and with the black image's spikes."""
    alpha, rows, g = EPS / 10, torch.arange(len(y)), 0
    for m in range(blends or 1):
        if blends == 0:
            x = images
        elif variant == "official":
            x = (images + 0.1 * torch.randn_like(images)) * (1 - m / blends) + m / blends * torch.zeros_like(images)
        else:
            x = images * m / blends
        for _ in range(draws):
            s = net.spikes(x).detach().requires_grad_()
            share = torch.softmax(net.logits(s), 1)[rows, y]
            g = g + torch.autograd.grad(share.sum(), s)[0]
    w = torch.stack([-g[:, b] / g[:, b].square().sum().sqrt() for b in rows], 1)
    w = w.mean(0, keepdim=True) if rates else w
    with torch.random.fork_rng():
        base = net.spikes(torch.zeros_like(images)).detach()
    x, momentum = images, torch.zeros_like(images)
    for _ in range(steps):
        total = torch.zeros_like(x)
        for _ in range(draws):
            at = x.detach().requires_grad_()
            s = net.spikes(at)
            net.logits(s.detach())  # draws its noise
            a = (s - base) * w
            positive, negative = a[a >= 0].sum(), a[a < 0].sum()
            total += torch.autograd.grad((positive + 1.0 * negative) / a.numel(), at)[0]
        if variant == "official":
            momentum = momentum + torch.stack([each / each.abs().mean() for each in total])
        else:
            momentum = total
        x = x + alpha * momentum.sign()
        x = torch.minimum(torch.maximum(x, images - EPS), images + EPS).clamp(0, 1)
    return x


@pytest.mark.parametrize(
    ("variant", "blends", "rates", "noise", "draws"),
    [
        ("official", 30, False, 0.0, 1),
        ("official", 5, True, 0.0, 1),
        ("official", 0, False, 0.0, 1),
        ("official", 4, False, 0.2, 3),
        ("transferattack", 30, False, 0.0, 1),
    ],
)
def test_it_is_the_formulas(variant, blends, rates, noise, draws):
    net, x, y = Tiny(noise).eval(), torch.rand(6, 1, 3, 3), torch.arange(6) % 3
    torch.manual_seed(1)
    expected = by_hand(net, x, y, 10, blends, variant, rates, draws)
    torch.manual_seed(1)
    found = naa(variant=variant, blends=blends, rates=rates, draws=draws)(Victim(net), x, y)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert ((found - x).abs() > EPS / 20).float().mean() > 0.5 and not found.requires_grad
    assert not any(each._forward_hooks for each in net.modules()) and all(p.grad is None for p in net.parameters())


def test_the_variants_differ_and_so_do_layers():
    victim, x, y = Victim(Tiny().eval()), torch.rand(6, 1, 3, 3), torch.arange(6) % 3

    def found(**options) -> Tensor:
        torch.manual_seed(1)
        return naa(**options)(victim, x, y)

    middle = found()
    assert torch.equal(found(layer=1), middle) and torch.equal(found(layer="lif2"), middle)
    assert torch.equal(found(layer=-2), middle) and not torch.equal(found(layer=0), middle)
    assert not torch.equal(found(variant="transferattack"), middle)
    assert not torch.equal(found(blends=3), middle) and not torch.equal(found(rates=True), middle)
    start = attacks.somewhere(x, EPS)
    assert torch.equal(naa(alpha=0.0, steps=2)(victim, x, y, start), start)
    assert chosen(Victim(nn.Sequential(tgo.LIF(), tgo.LIF())), None).name == "0"


def test_weights_are_of_norm_one_and_of_each_image():
    net, x, y = Tiny().eval(), torch.rand(5, 1, 3, 3), torch.arange(5) % 3
    together = weights(net, x, y, variant="transferattack")
    assert together.shape == (4, 5, 8)
    torch.testing.assert_close(together.square().sum((0, 2)), torch.ones(5))
    alone = torch.cat([weights(net, x[[i]], y[[i]], "lif2", variant="transferattack") for i in range(5)], 1)
    torch.testing.assert_close(together, alone)


def test_where_no_gradient_arrives_nothing_moves():
    net, x, y = Tiny().eval(), torch.rand(4, 1, 3, 3), torch.arange(4) % 3
    with torch.no_grad():
        net.fc3.weight.zero_()
    victim = Victim(net)
    assert not weights(victim, x, y).any()
    for variant in ("official", "transferattack"):
        assert torch.equal(naa(variant=variant)(victim, x, y), x)


def test_a_step_without_a_gradient_does_not_end_the_momentum():
    class Stalled(Tiny):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(0 * x + x.detach() if self.calls == 4 else x)  # the first behind three blends

    x, y, found = torch.rand(4, 1, 3, 3), torch.arange(4) % 3, []
    for net, steps in ((Tiny(), 3), (Stalled(), 4)):
        torch.manual_seed(1)
        found.append(naa(blends=3, steps=steps)(Victim(net.eval()), x, y))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], x)


@pytest.mark.parametrize("variant", ["official", "transferattack"])
def test_it_lowers_accuracy_and_transfers(variant):
    """To a network with other thresholds, of examples that are within eps and images."""
    source, target, (x, y) = Victim(Scale()), Victim(Scale(neurons=30)), grey()
    attack = naa(variant=variant)
    assert accuracy(source, x, y, noise=False) > 0.95 and accuracy(target, x, y, noise=False) > 0.9
    assert accuracy(source, x, y, attack, noise=False) < 0.1
    assert accuracy(target, x, y, attacks.transferred([source], attack), noise=False) < 0.1
    made = attack(source, x, y)
    assert (made - x).abs().max() <= EPS + 1e-6 and made.min() >= 0 and made.max() <= 1


def jelly(mode: str) -> nn.Module:
    """Of SpikingJelly, without time inside; the reset has a gradient."""
    torch.manual_seed(0)
    node = lambda: neuron.LIFNode(tau=2.0, detach_reset=False)  # noqa: E731
    net = nn.Sequential(layer.Flatten(), layer.Linear(36, 20), node(), layer.Linear(20, 4), node())
    functional.set_step_mode(net, mode)
    with torch.no_grad():
        net[1].weight.mul_(6)
        net[3].weight.mul_(6)
    return net


class Snn(nn.Module):
    """Of snnTorch, with time inside; its neurons return spikes and membranes, or keep these."""

    def __init__(self, hidden: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.lif1 = nn.Linear(36, 20), snntorch.Leaky(beta=0.5, init_hidden=hidden)
        self.fc2, self.lif2 = nn.Linear(20, 4), snntorch.Leaky(beta=0.5, init_hidden=hidden)
        with torch.no_grad():
            self.fc1.weight.mul_(4)
            self.fc2.weight.mul_(9)

    def forward(self, x: Tensor) -> Tensor:
        x, spikes = self.fc1(x.flatten(1)), []
        mem1, mem2 = ((), ()) if self.lif1.init_hidden else ((self.lif1.init_leaky(),), (self.lif2.init_leaky(),))
        for _ in range(4):
            s = self.lif1(x, *mem1)
            s, mem1 = (s, ()) if self.lif1.init_hidden else (s[0], (s[1],))
            s = self.lif2(self.fc2(s), *mem2)
            s, mem2 = (s, ()) if self.lif2.init_hidden else (s[0], (s[1],))
            spikes.append(s)
        return torch.stack(spikes).mean(0)


def right(victim: Victim) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    x = torch.rand(40, 1, 6, 6)
    with victim.evaluating(False), torch.no_grad():
        return x, victim(x).argmax(1)


@pytest.mark.parametrize("variant", ["official", "transferattack"])
def test_on_spikingjelly_one_step_a_call_or_all_of_them_is_the_same(variant):
    """And as converted: the weights are by the layer's output alone, not by the reset that its spikes cause."""
    converted = jelly("m")
    convert_spikingjelly.convert(converted)
    victims = [Victim(net, steps=4) for net in (jelly("m"), jelly("s"), converted)]
    x, y = right(victims[0])
    w, found = [], []
    for victim in victims:
        with victim.evaluating(False):
            torch.manual_seed(3)
            w.append(weights(victim, x, y, 0, variant=variant))
        torch.manual_seed(3)
        found.append(withstood(victim, x, y, naa(16 / 255, variant=variant), noise=False))
        assert not any(each._forward_hooks for each in victim.model.modules())
    assert w[0].shape == (4, 40, 20)
    torch.testing.assert_close(w[1], w[0])
    torch.testing.assert_close(w[2], w[0])
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert found[0].float().mean() < 0.7


def test_on_snntorch():
    """Whose neurons return their membranes too, or keep them: the same attack, which beats random signs."""
    found, victims = [], [Victim(Snn(hidden)) for hidden in (False, True)]
    x, y = right(victims[0])
    for victim in victims:
        assert not victim.neurons[0].sees_time
        torch.manual_seed(3)
        found.append(withstood(victim, x, y, naa(16 / 255), noise=False))
        assert accuracy(victim, x, y, noise=False) == 1 and not victim.model.lif1._forward_hooks
    assert torch.equal(found[0], found[1]) and found[0].float().mean() < 0.5
    assert accuracy(victims[0], x, y, attacks.random_signs(16 / 255), noise=False) > 0.7


def test_what_it_cannot_be_says_so():
    for options, error, said in (
        ({"variant": "paper"}, ValueError, "variant must be 'official' or 'transferattack', got 'paper'"),
        ({"steps": 0}, ValueError, "steps must be >= 1, got 0"),
        ({"blends": 1.5}, TypeError, "blends must be an int, got float"),
        ({"draws": True}, TypeError, "draws must be an int, got bool"),
        ({"layer": 1.0}, TypeError, "layer must be None, an int or a name in the model, got float"),
        ({"eps": "8"}, TypeError, "eps must be a Python float, got str"),
        ({"alpha": -1.0}, ValueError, r"alpha must be finite and >= 0"),
        ({"rates": 1}, TypeError, "rates must be a bool, got int"),
    ):
        with pytest.raises(error, match=said):
            naa(**{"eps": EPS, **options})
    x, y = torch.rand(2, 1, 3, 3), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="layer must be an index of 3 layers that fire, got 3"):
        naa(layer=3)(Victim(Tiny()), x, y)
    with pytest.raises(ValueError, match=r"layer must be .* of Tiny, \['lif1', 'lif2', 'lif3'\]; got 'lif4'"):
        naa(layer="lif4")(Victim(Tiny()), x, y)
    with pytest.raises(ValueError, match="must have a layer of neurons that fires, Flatten has none"):
        naa()(Victim(nn.Flatten()), x, y)
