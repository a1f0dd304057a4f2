"""Which channels an attack uses, and a model with gains that say so."""

import copy

import pytest
import snntorch
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

import tgo_kernels as tgo
from tgo_kernels.robustness import Victim, attacks, withstood
from tgo_kernels.robustness.channels import ChannelGain, Fragility, fragility, ranks, rescaled, without
from tgo_kernels.robustness.evaluation import fingerprint, seeded


class Planted(nn.Module):
    """Calls images [B, 1, 1, 2] light where s_0 + 3 s_1 > 1/2: the first channel is of a pixel that no attack turns,
    the second of one that any does, and the third of nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.lif = tgo.LIF.from_decay(0.0)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x[:, 0, 0] - 0.5
        current = torch.stack([1 + 2 * pixels[:, 0], 1 + 60 * pixels[:, 1], 0 * pixels[:, 0]], 1)[..., None, None]
        s = self.lif(current.expand(2, *current.shape)).mean((0, 3, 4))
        light = s @ torch.tensor([1.0, 3.0, 0.0])
        return torch.stack([torch.full_like(light, 0.5), light], 1)


def planted(count: int = 20) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 2
    side = labels * 2 - 1
    return torch.stack([0.5 + side * 0.3, 0.5 + side * 3 / 255], 1).view(-1, 1, 1, 2), labels


def test_the_channel_that_the_attack_uses_is_the_most_fragile():
    """Dark images fall by it alone; without the first channel, all do."""
    model, (x, y) = Planted().train(), planted()
    model.lif(torch.ones(1, 2, 3, 1, 1))
    mark, v = fingerprint(Victim(model)), model.lif.v
    found = fragility(model, x, y)
    assert (found.layer, found.of, found.clean, found.attacked) == ("lif", 20, 20, 10)
    assert found.clean_without.tolist() == [20, 20, 20]
    assert found.attacked_without.tolist() == found.transferred_without.tolist() == [0, 20, 10]
    assert found.clean_k.tolist() == [0, 0, 0] and found.adv_k.tolist() == found.transfer_k.tolist() == [0.5, -0.5, 0]
    assert found.fragility.tolist() == [-0.5, 0.5, 0] and found.ranks.tolist() == [-1, 1, 0]
    assert model.training and model.lif.v is v and not model.lif._forward_hooks and fingerprint(Victim(model)) == mark


def network(mode: str = "m") -> nn.Sequential:
    torch.manual_seed(0)
    node = lambda: neuron.LIFNode(tau=2.0)  # noqa: E731
    net = nn.Sequential(layer.Flatten(), layer.Linear(36, 6), node(), layer.Linear(6, 4), node())
    functional.set_step_mode(net, mode)
    with torch.no_grad():
        net[1].weight.mul_(8)
        net[3].weight.mul_(8)
    return net


def asked(victim: Victim, count: int = 60) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    x = torch.rand(count, 1, 6, 6)
    with victim.evaluating(False), torch.no_grad():
        y = victim(x).argmax(1)
    y[::7] = (y[::7] + 1) % 4  # which it gets wrong
    return x, y


@pytest.mark.parametrize("mode", ["m", "s"])
@pytest.mark.parametrize("attack", [None, attacks.pgd(steps=3)])
def test_it_is_what_a_network_without_the_weights_behind_the_channel_does(attack, mode):
    """An attack that is made on it, and one that is made on the whole; each from the same seed."""
    victim = Victim(network(mode), steps=4)
    x, y = asked(victim)
    found = fragility(victim, x, y, attack=attack, seed=3, batch=25)
    attack = attacks.fgsm() if attack is None else attack

    def right(model: Victim, x: Tensor) -> int:
        return int(withstood(model, x, y, noise=False).sum())

    def made(model: Victim) -> Tensor:
        with seeded(x, 3), model.evaluating(False):
            return torch.cat([attack(model, a, b) for a, b in zip(x.split(25), y.split(25), strict=True)])

    intact = made(victim)
    assert (found.of, found.clean, found.attacked) == (60, right(victim, x), right(victim, intact))
    assert found.clean == 51 > found.attacked
    for k in range(6):
        cut = Victim(network(mode), steps=4)
        with torch.no_grad():
            cut.model[3].weight[:, k] = 0
        said = found.clean_without[k], found.attacked_without[k], found.transferred_without[k]
        assert [int(each) for each in said] == [right(cut, x), right(cut, made(cut)), right(cut, intact)]
    assert len(found.adv_k.unique()) > 2 and not torch.equal(found.adv_k, found.transfer_k)
    torch.testing.assert_close(found.fragility, found.clean_k - found.adv_k)
    assert found.layer == "2" and not any(each._forward_hooks for each in victim.model)


def test_ranks_are_between_and_the_same_for_the_same():
    assert ranks(torch.tensor([3.0, -1.0, 2.0])).tolist() == [1, -1, 0]
    assert ranks(torch.tensor([0.0, 5.0, 5.0, 9.0, 0.0])).tolist() == [-0.75, 0.25, 0.25, 1, -0.75]
    assert ranks(torch.tensor([4.0])).tolist() == [0]


def test_a_channel_is_off_and_on_again():
    """Of images [T, B, C, H, W] and of one step a call, whose output may be of several; the membranes stay."""
    lif, x = tgo.LIF(), 3 * torch.rand(4, 2, 3, 5, 5)
    spikes = lif(x)
    with without(lif, 0, 1):
        cut = lif(x)
    v = lif.v
    assert not cut[:, :, 1].any() and torch.equal(cut[:, :, ::2], spikes[:, :, ::2]) and spikes[:, :, 1].any()
    assert torch.equal(lif(x), spikes) and torch.equal(lif.v, v)
    snn = snntorch.Leaky(0.9)
    spikes, mem = snn(x[0], torch.zeros(2, 3, 5, 5))
    with without(snn, "", 2):
        cut, other = snn(x[0], torch.zeros(2, 3, 5, 5))
    assert not cut[:, 2].any() and torch.equal(cut[:, :2], spikes[:, :2]) and torch.equal(other, mem)
    with pytest.raises(ValueError, match="channel must be < 3, the channels of ''; got 3"), without(lif, 0, 3):
        lif(x)
    with pytest.raises(ZeroDivisionError), without(lif, 0, 0):
        raise ZeroDivisionError
    assert torch.equal(lif(x), tgo.LIF()(x))


def three(name: str) -> Fragility:
    """The third of three channels is the most fragile, the first the most robust."""
    same = torch.tensor([9, 9, 9])
    return Fragility(name, 10, 9, 5, same, torch.tensor([1, 2, 3]), same)


class Small(nn.Module):
    def __init__(self, lif: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.lif, self.out = nn.Linear(4, 3), lif, nn.Linear(3, 2)
        with torch.no_grad():
            self.fc.weight.mul_(6)
            self.fc.bias.fill_(1.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x.flatten(1))
        if isinstance(self.lif, tgo.LIF):
            return self.out(self.lif(x.expand(4, -1, -1))).mean(0)
        mem, found = self.lif.init_leaky(), []
        for _ in range(4):
            s, mem = self.lif(x, mem)
            found.append(self.out(s))
        return torch.stack(found).mean(0)


@pytest.mark.parametrize("make", [tgo.LIF, lambda: snntorch.Leaky(0.5)], ids=["tgo_kernels", "snnTorch"])
@torch.no_grad()
def test_gains_are_those_of_the_weights_in_front(make):
    model, x = Small(make()), torch.rand(50, 1, 2, 2)
    plain, mark, text = model(x), fingerprint(Victim(model)), str(model)
    with rescaled(model, three("lif"), 0.0):
        assert torch.equal(model(x), plain)
    for sign, gain in ((1, [0.7, 1.0, 1.3]), (-1, [1.3, 1.0, 0.7])):
        other = Small(make())
        with torch.no_grad():
            other.fc.weight.mul_(torch.tensor(gain)[:, None])
            other.fc.bias.mul_(torch.tensor(gain))
        with rescaled(Victim(model), three("lif"), 0.3, sign) as inserted:
            torch.testing.assert_close(inserted.gain, torch.tensor(gain))
            torch.testing.assert_close(model(x), other(x))
            assert fingerprint(Victim(model)) != mark and "channel_gain" in str(model)
            assert "lif.channel_gain.gain" in model.state_dict()
            again = copy.deepcopy(model)
        torch.testing.assert_close(again(x), other(x))  # a copy keeps its own
        assert not torch.equal(other(x), plain)
    assert torch.equal(model(x), plain) and fingerprint(Victim(model)) == mark and str(model) == text
    assert not model.lif._forward_pre_hooks


def test_two_gains_make_two_records():
    model, marks = Small(tgo.LIF()), set()
    for beta in (0.1, 0.2):
        for sign in (1, -1):
            with rescaled(model, three("lif"), beta, sign):
                marks.add(fingerprint(Victim(model)))
    assert len(marks) == 4


def test_a_gain_behind_a_fused_norm():
    torch.manual_seed(0)
    net, x = nn.Sequential(tgo.OverTime(nn.BatchNorm2d(3)), tgo.LIF()), 4 * torch.rand(4, 2, 3, 5, 5)
    net[0][0].weight.data.fill_(2.0)
    with rescaled(net, three("1"), 0.3):
        expected = net(x)
        tgo.fuse(net)
        assert torch.equal(net(x), expected)
    assert not torch.equal(net(x), expected)


def test_one_that_is_kept():
    model, x = Small(tgo.LIF()), torch.rand(9, 1, 2, 2)
    undo = ChannelGain(torch.tensor([0.0, 0.0, 0.0])).insert(model.lif)
    torch.testing.assert_close(model(x), model.out.bias.expand(9, 2))
    with pytest.raises(ValueError, match="LIF has a channel_gain already"), rescaled(model, three("lif"), 0.1):
        pass
    undo()
    assert not hasattr(model.lif, "channel_gain") and (model(x) - model.out.bias).any()


def test_what_it_cannot_be_says_so():
    model, (x, y) = Planted(), planted(4)
    found = three("lif")
    for call, error, said in (
        (lambda: fragility(model, x, y, layer=1), ValueError, "layer must be an index of 1 layers that fire, got 1"),
        (lambda: fragility(model, x, y, eps=0), ValueError, "eps must be > 0 and at most 1, got 0"),
        (lambda: fragility(model, x, y.int()), ValueError, r"labels must be an int64 tensor \[4\], got torch.int32"),
        (lambda: fragility(model, x, y, attack="FGSM"), TypeError, "attack must be an attack, .* got str"),
        (lambda: fragility(model, x, y, noise=0), TypeError, "noise must be a bool, got int"),
        (lambda: fragility("net", x, y), TypeError, r"model must be an nn.Module, got str"),
        (lambda: rescaled(model, 0.3, 0.1).__enter__(), TypeError, "found must be a Fragility, got float"),
        (lambda: rescaled(model, found, 1.0).__enter__(), ValueError, "beta must be < 1, got 1.0"),
        (lambda: rescaled(model, found, 0.1, 0).__enter__(), ValueError, "sign must be 1 or -1, got 0"),
        (lambda: without(model, 0, -1).__enter__(), ValueError, "channel must be >= 0, got -1"),
        (lambda: ChannelGain([1.0]), ValueError, r"gain must be a float tensor \[C\], got list"),
        (lambda: ChannelGain(torch.ones(2))(torch.ones(4, 1, 3)), ValueError, "x must have 2 channels in dimension 2"),
        (
            lambda: ChannelGain(torch.ones(3)).insert(tgo.InhibitedLIF()),
            ValueError,
            "InhibitedLIF must have one input to be scaled, it has excitation, subtracted, divided",
        ),
    ):
        with pytest.raises(error, match=said):
            call()
    with rescaled(model, found, 0.1), pytest.raises(ValueError, match="must be given its input by position"):
        model.lif(x=torch.ones(2, 1, 3))
