"""Examples of every source on every target."""

import pytest
import snntorch
import torch
from torch import Tensor, nn
from victims import Scale, grey

import tgo_kernels as tgo
from tgo_kernels.robustness import Victim, accuracy, attacks, naa, transfers
from tgo_kernels.robustness.evaluation import seeded


class Blind(Scale):
    """Answers as Scale does, and shows no gradient: what is made on it is nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach()) + 0 * x.sum()


def test_the_diagonal_is_the_white_box_and_the_rest_what_a_target_says_of_the_examples():
    victims = {"a": Scale(), "blind": Victim(Blind()), "c": Scale(neurons=3)}
    x, y = grey()
    attack = attacks.pgd(alpha=2 / 255, steps=4)
    found = transfers(victims, x, y, attack, seed=5)
    assert found.shape == (3, 3)
    white = []
    for victim in victims.values():
        with seeded(x, 5):
            white.append(accuracy(victim, x, y, attack, noise=False))
    assert found.diag().tolist() == pytest.approx(white)
    with seeded(x, 5):
        made = attack(Victim(victims["a"]), x, y)
    assert found[0].tolist() == pytest.approx([accuracy(each, made, y, noise=False) for each in victims.values()])
    assert found[0, 0] < 0.1 and found[0, 1] == found[0, 0] and (found[1] > 0.7).all()


def test_every_source_makes_its_examples_once():
    calls = []

    def attack(victim: Victim, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor:
        calls.append((victim.model, len(images)))
        assert not victim.model.training
        return images

    x, y = grey(10)
    victims = {"a": Scale().train(), "b": Scale()}
    transfers(victims, x, y, attack, batch=6)
    assert calls == [(victims[name], size) for name in "ab" for size in (6, 4)]
    assert victims["a"].training


def test_with_noise_and_across_frameworks():
    """The noise is that of the models, which are put back, states too."""
    snn = nn.Sequential(nn.Flatten(), nn.Linear(36, 2), snntorch.Leaky(0.9, init_hidden=True, output=True))
    with torch.no_grad():
        snn[1].weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 36))
        snn[1].bias.copy_(torch.tensor([18.0 + 1, -18.0 + 1]))
    noisy, x, y = Scale(noise_std=0.3), *grey(12)
    snn[2].mem = torch.ones(3, 2)
    mem, v = snn[2].mem, noisy.lif.v
    found = transfers({"snn": Victim(snn, steps=3), "noisy": noisy}, x, y, naa(), noise=True)
    assert snn[2].mem is mem and noisy.lif.v is v and not noisy.lif.noise_in_eval
    assert found.max() < 0.7 and not any(each._forward_hooks for each in snn)


def test_what_it_cannot_take_says_so():
    x, y = grey(4)
    with pytest.raises(TypeError, match="victims must be a mapping of names to models, got list"):
        transfers([Scale()], x, y, naa())
    with pytest.raises(TypeError, match=r"attack must be an attack, such as attacks.pgd\(\), got str"):
        transfers({"a": Scale()}, x, y, "PGD")
    with pytest.raises(ValueError, match=r"images must be in \[0, 1\], got values from"):
        transfers({"a": Scale()}, x - 1, y, naa())
    with pytest.raises(TypeError, match="noise must be a bool, got int"):
        transfers({"a": Scale()}, x, y, naa(), noise=1)
    with pytest.raises(TypeError, match=r"model must be an nn.Module, got LIF"):
        transfers({"a": tgo.neurons.LIF()}, x, y, naa())
