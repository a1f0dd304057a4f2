"""Neurons that need all of their inputs, and such that any fires: by their weights, and by what they fire for."""

import pytest
import snntorch
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn
from victims import Scale, grey

import tgo_kernels as tgo
from tgo_kernels.robustness import Victim
from tgo_kernels.robustness.andness import andness, normalised_, scrambled, scrambled_penalty, scrambled_rates


def test_and_is_1_and_or_is_1_of_the_inputs():
    """Of a neuron without a leak in one step; inhibition is no drive."""
    every, any_, none, few = torch.full((10,), 0.1), torch.ones(10), -torch.ones(10), torch.full((10,), 0.05)
    mixed = torch.cat([torch.ones(5), -torch.ones(5)])
    weight = torch.stack([every, any_, none, few, mixed, torch.zeros(10)])
    assert andness(weight, (1.0, 1.0, 1.0), 1).tolist() == pytest.approx([1, 0.1, 1, 1, 0.2, 1])
    assert andness(weight, (1.0, 1.0, 1.0), 4).tolist() == pytest.approx([0.25, 0.025, 1, 0.5, 0.05, 1])
    assert andness(weight.view(6, 2, 5, 1), (0.5, 2.0, 3.0), 3)[1].item() == pytest.approx(3 / (2 * 1.75 * 10))
    learned = andness(weight[:2], (torch.tensor([0.0, 0.5]), 1.0, torch.tensor([0.5, 1.5])), 2)
    assert learned.tolist() == pytest.approx([0.5, 0.1])


@pytest.mark.parametrize("steps", [1, 5])
def test_it_is_the_share_of_inputs_at_which_a_neuron_fires(steps):
    """Measured: the neuron fires with so many inputs on, or more."""
    lif = tgo.LIF(tau=3.0)
    weight = torch.tensor([0.31, 0.7, 1.1]).view(3, 1).expand(3, 16)
    found = andness(weight, lif, steps)
    on = (torch.arange(17).view(17, 1) > torch.arange(16)).float()  # [17, 16]: none to all
    fires = lif((on @ weight.T).expand(steps, 17, 3)).amax(0).bool()
    assert torch.equal(fires, torch.arange(17).view(17, 1) / 16 > found - 1e-6) and (found < 1).all()


def test_the_constants_are_those_of_every_framework():
    weight = torch.rand(3, 8)
    expected = andness(weight, (0.5, 1.0, 1.0), 4)
    for leaky in (
        tgo.LIF(tau=2.0, decay_input=False),
        tgo.neurons.LIF(decay=0.5),
        neuron.LIFNode(tau=2.0, decay_input=False),
        snntorch.Leaky(0.5),
        Victim(tgo.LIF(tau=2.0, decay_input=False)).neurons[0],
        tgo.LIF.from_decay(0.5, learn_decay=True, channels=3),
    ):
        found = andness(nn.Parameter(weight), leaky, 4)
        torch.testing.assert_close(found, expected)
        assert not found.requires_grad
    torch.testing.assert_close(andness(weight, tgo.LIF(tau=2.0), 4), (2 * expected).clamp(max=1))
    torch.testing.assert_close(andness(weight, neuron.IFNode(), 4), andness(weight, (1.0, 1.0, 1.0), 4))


def test_weights_are_given_an_andness():
    conv, lif = nn.Conv2d(2, 5, 3), tgo.LIF(tau=2.0)
    with torch.no_grad():
        conv.weight[0].abs_()
        conv.weight[1] = 0
    signs = conv.weight.sign()
    assert normalised_(conv.weight, 0.4, lif, 3) is conv.weight
    found = andness(conv.weight, lif, 3)
    assert found[0].item() == pytest.approx(0.4) and (found[1:] > 0.4).all() and not conv.weight[1].any()
    c = 1 / (0.5 * 1.75 * 0.4)
    torch.testing.assert_close(conv.weight.abs().sum((1, 2, 3)), c * torch.tensor([1.0, 0, 1, 1, 1]))
    assert torch.equal(conv.weight.sign(), signs) and conv.weight.requires_grad


def test_scrambled_keeps_every_feature_and_no_correlation():
    base = torch.rand(4000, 1)
    x = torch.cat([base, base, 1 - base], 1)
    y = scrambled(x)
    assert torch.equal(y.sort(0).values, x.sort(0).values)
    assert torch.corrcoef(x.T).abs().min() > 0.999
    assert (torch.corrcoef(y.T) - torch.eye(3)).abs().max() < 0.1
    again = scrambled(x, generator=torch.Generator().manual_seed(7))
    assert torch.equal(again, scrambled(x, generator=torch.Generator().manual_seed(7))) and not torch.equal(again, y)


def test_scrambled_along_others_and_together():
    x = torch.arange(3 * 50 * 2 * 2).view(3, 50, 2, 2).float()
    apart, whole = scrambled(x, 1), scrambled(x, -3, together=[0])
    for each in (apart, whole):
        assert torch.equal(each.sort(1).values, x.sort(1).values)
    assert torch.equal(whole[1] - whole[0], x[1] - x[0]) and not torch.equal(apart[1] - apart[0], x[1] - x[0])
    assert not torch.equal(whole[..., 1] - whole[..., 0], x[..., 1] - x[..., 0])


class Logic(nn.Module):
    """Of images [B, 1, 1, 2] of zeros and ones, neurons that fire for both pixels, for any, for the first, for none;
    then the same of neurons that look at one pixel each, ``of``."""

    def __init__(self, of: tuple[int, int] = (0, 1)) -> None:
        super().__init__()
        self.of = of
        self.gates, self.copies, self.last = (tgo.LIF.from_decay(0.0) for _ in range(3))
        self.weight = torch.tensor([[0.5, 0.5], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1).expand(2, -1, 2)
        gates = self.gates(x @ self.weight.T)
        copies = self.copies(x[..., list(self.of)])
        return gates.mean(0)[:, :2] + self.last(copies @ self.weight.T).mean(0)[:, :2]


def pairs(count: int = 2000) -> Tensor:
    """Both pixels on, or both off."""
    torch.manual_seed(0)
    return torch.randint(0, 2, (count, 1, 1, 1)).float().expand(-1, 1, 1, 2)


def test_and_fires_less_for_scrambled_images_and_or_more():
    """Counted on the scrambled images themselves."""
    x, model = pairs(), Logic().train()
    y = scrambled(x, generator=torch.Generator().manual_seed(3)).flatten(1)
    found = scrambled_rates(model, x, batch=300, generator=torch.Generator().manual_seed(3))
    assert list(found) == ["gates", "copies", "last"] and model.training and model.gates.v is None
    on = x[:, 0, 0, 0].mean().item()
    assert found["gates"].actual.tolist() == pytest.approx([on, on, on, 0])
    expected = [y.prod(1).mean().item(), y.amax(1).mean().item(), on, 0]
    assert found["gates"].scrambled.tolist() == pytest.approx(expected)
    score = found["gates"].score
    assert score.tolist() == pytest.approx([1 - expected[0] / on, 1 - expected[1] / on, 0, 0])
    assert score[0] > 0.4 and score[1] < -0.4
    torch.testing.assert_close(found["last"].score, score)


def test_a_layers_own_input_is_what_the_layer_before_fires():
    """Two copies of one pixel belong together in every image, scrambled or not; not where they are scrambled."""
    x = pairs()
    images, own = (scrambled_rates(Logic(of=(0, 0)), x, of=of) for of in ("images", "input"))
    assert images["last"].score.abs().max() < 1e-6
    score = own["last"].score.tolist()
    assert score[0] > 0.4 and score[1] < -0.4 and score[2:] == pytest.approx([0, 0])
    assert own["gates"].score[0] > 0.4
    assert own["copies"].score.abs().max() < 1e-6  # behind the gates, which it does not see


def test_silent_neurons_have_a_score():
    """-inf of one that fires for what never comes."""

    class Either(Logic):
        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1).expand(2, -1, 2)
            return self.gates(x @ torch.tensor([[1.0, -1.0], [1.0, -1.0]]) - torch.tensor([1.0, 3.0]))[0]

    x = torch.cat([pairs(100)[:, :, :, :1], 1 - pairs(100)[:, :, :, :1]], 3)  # one pixel on
    assert scrambled_rates(Either(), x)["gates"].score.tolist() == [-torch.inf, 0]


def jelly(mode: str) -> nn.Module:
    torch.manual_seed(0)
    node = lambda: neuron.LIFNode(tau=2.0)  # noqa: E731
    net = nn.Sequential(layer.Conv2d(1, 3, 2), node(), layer.Flatten(), layer.Linear(12, 4), node())
    functional.set_step_mode(net, mode)
    with torch.no_grad():
        net[0].weight.mul_(8)
        net[3].weight.mul_(8)
    return net


@pytest.mark.parametrize("of", ["images", "input"])
def test_one_step_a_call_or_all_of_them_is_the_same(of):
    """A scrambled spike train stays whole: one order for all steps."""
    x, found = torch.rand(40, 1, 3, 3), {}
    for mode in ("m", "s"):
        victim, generator = Victim(jelly(mode), steps=4), torch.Generator().manual_seed(1)
        found[mode] = scrambled_rates(victim, x, of=of, generator=generator)
        assert not any(each._forward_hooks for each in victim.model)
    for name, rates in found["m"].items():
        torch.testing.assert_close(rates.actual, found["s"][name].actual)
        torch.testing.assert_close(rates.scrambled, found["s"][name].scrambled)
    per = scrambled_rates(Victim(jelly("m"), steps=4), x, of=of, per="neuron")["1"].actual
    assert per.shape == (3, 2, 2)
    torch.testing.assert_close(per.mean((1, 2)), found["m"]["1"].actual)
    assert found["m"]["4"].scrambled.tolist() != found["m"]["4"].actual.tolist()


def test_a_train_that_is_scrambled_whole_keeps_what_its_own_neuron_fires():
    """An integrator behind one neuron fires as often, whichever image the train is of."""

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = tgo.LIF.from_decay(1.0), tgo.LIF.from_decay(1.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x.flatten(1).expand(9, -1, -1)) * 0.6).mean(0)

    found = scrambled_rates(Chain(), torch.rand(50, 1, 2, 2), of="input")
    torch.testing.assert_close(found["second"].actual, found["second"].scrambled)
    assert found["second"].actual.min() > 0.1


def test_the_penalty_is_the_mean_rate_for_scrambled_images():
    model, x = Scale(), grey()[0]
    found = scrambled_penalty(model, x, torch.Generator().manual_seed(2))
    spikes = []
    handle = model.lif.register_forward_hook(lambda module, inputs, output: spikes.append(output))
    model(scrambled(x, generator=torch.Generator().manual_seed(2)))
    handle.remove()
    torch.testing.assert_close(found, spikes[0].mean())
    found.backward()
    assert model.scale.grad.abs().sum() > 0


def test_training_with_the_penalty_makes_neurons_fire_less_for_anything():
    torch.manual_seed(0)
    x = torch.rand(64, 1, 4, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), snntorch.Leaky(0.5, init_hidden=True))
    with torch.no_grad():
        model[1].weight.abs_()
    victim, rates = Victim(model, steps=3), []
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    for _ in range(15):
        optimizer.zero_grad()
        penalty = scrambled_penalty(victim, x)
        penalty.backward()
        optimizer.step()
        rates.append(penalty.item())
    assert rates[0] > 0.3 and rates[-1] < 0.1


def test_the_penalty_leaves_no_trace():
    """Statistics, states, the guard's penalty of the batch before it; and the graph of that batch."""
    torch.manual_seed(0)
    norm, lif = nn.BatchNorm1d(4), tgo.LIF(guard_margin=0.3, stateful=True)
    model, x = nn.Sequential(tgo.OverTime(nn.Linear(6, 4), norm), lif), torch.rand(8, 6)
    victim = Victim(model, steps=3)
    logits = model(x.expand(3, 8, 6)).mean(0)
    mean, count, rate, state = norm.running_mean, norm.num_batches_tracked, lif.firing_rate, lif.v
    before, guard = (mean.clone(), count.clone(), rate.clone(), state.clone()), lif.penalty
    found = scrambled_penalty(victim, x)
    assert norm.running_mean is mean and norm.num_batches_tracked is count and lif.v is state
    assert all(map(torch.equal, (mean, count, lif.firing_rate, state), before)) and lif.penalty is guard
    assert torch.equal(tgo.guard_penalty(model), guard) and model.training
    (logits.sum() + guard + found).backward()
    assert model[0][0].weight.grad.isfinite().all()
    assert not lif._forward_hooks
    snn = nn.Sequential(nn.Flatten(), nn.Linear(6, 2), snntorch.Leaky(0.5, init_hidden=True, output=True))
    node = nn.Sequential(layer.Linear(6, 2), neuron.LIFNode())
    snn(x), node(x)
    mem, v = snn[2].mem, node[1].v
    scrambled_penalty(Victim(snn, steps=3), x), scrambled_penalty(Victim(node, steps=3), x)
    assert snn[2].mem is mem and node[1].v is v and v.shape == (8, 2)


def test_what_it_cannot_be_says_so():
    w, x, good = torch.rand(3, 4), torch.rand(4, 1, 2, 2), (0.5, 1.0, 1.0)
    for call, error, said in (
        (
            lambda: andness(w[0], good, 1),
            ValueError,
            r"weight must be a float tensor \[neurons, inputs, \*\], got .*4,",
        ),
        (lambda: andness(w, good, 0), ValueError, "steps must be >= 1, got 0"),
        (lambda: andness(w, (0.5, 1.0), 1), ValueError, r"neuron must be \(decay, gain, v_threshold\) where"),
        (lambda: andness(w, ("a", 1.0, 1.0), 1), TypeError, "that are numbers or tensors, got"),
        (lambda: andness(w, (0.5, 0.0, 1.0), 1), ValueError, "a decay >= 0 and a gain > 0, got"),
        (lambda: andness(w, nn.ReLU(), 1), TypeError, "neuron must be a layer of leaky neurons, .* got ReLU"),
        (lambda: andness(w, "LIF", 1), TypeError, "neuron must be a layer of leaky neurons, .* got str"),
        (lambda: andness(w, (torch.ones(2), 1.0, 1.0), 1), ValueError, "constants for 3 neurons, got 2"),
        (lambda: normalised_(w, 0.0, good, 1), ValueError, "kappa must be > 0 and at most 1, got 0.0"),
        (lambda: normalised_(w, "1", good, 1), TypeError, "kappa must be a Python float, got str"),
        (lambda: scrambled(w, 2), ValueError, "dim must be one of 2 dimensions, got 2"),
        (lambda: scrambled(w, 1, together=[1]), ValueError, r"but 1; got \[1\]"),
        (lambda: scrambled([1.0]), TypeError, "x must be a tensor with a dimension of samples"),
        (lambda: scrambled_rates(Scale(), x, of="spikes"), ValueError, "of must be 'images' or 'input', got 'spikes'"),
        (lambda: scrambled_rates(Scale(), x, per="layer"), ValueError, "per must be 'channel' or 'neuron'"),
        (lambda: scrambled_rates(Scale(), x.int()), ValueError, r"images must be a float tensor \[N, \*\]"),
        (lambda: scrambled_rates(Scale(), x, batch=0), ValueError, "batch must be >= 1, got 0"),
        (lambda: scrambled_rates(nn.Flatten(), x), ValueError, "have a layer of neurons that fires, Flatten has none"),
        (lambda: scrambled_penalty("net", x), TypeError, r"model must be an nn.Module, got str"),
    ):
        with pytest.raises(error, match=said):
            call()
    signed = Victim(nn.Sequential(tgo.OverTime(nn.Flatten()), tgo.TernaryLIF()), steps=2)
    with pytest.raises(ValueError, match=r"must have neurons that fire 0 or 1 .* got spikes below 0"):
        scrambled_penalty(signed, -4 * x)
