"""The neurons of the house: against loops of their own, against LIF, and against finite differences."""

import pytest
import torch
from cases import dyadic
from family import MEMBERS

import tgo_kernels as tgo
from tgo_kernels import neurons, reference
from tgo_kernels.neurons.base import Spikes

ENGINES = tgo.available_impls("cpu")
EACH = pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
ON_ALL = pytest.mark.parametrize("impl", ENGINES)


def inputs_of(neuron, make):
    """Of each input stream one; what divides is away from 0."""
    return [make() if name != "divided" else 2.0 ** torch.randint(-1, 2, make().shape) for name in neuron.INPUTS]


def counted(neuron, spikes):
    """As how many they count: of either sign as one, and of integers all."""
    return (spikes.abs() * (neuron.levels if getattr(neuron, "normalize", False) else 1)).sum()


def test_every_neuron_is_here():
    assert {type(member.neuron) for member in MEMBERS} == set(neurons.HOUSE)


@ON_ALL
@EACH
def test_it_is_that_of_its_equations(member, impl):
    inputs = inputs_of(member.neuron, lambda: dyadic(30, 7, 11))
    spikes, state = member.loop(*(x.double() for x in inputs))
    out = tgo.scan(member.neuron, inputs, impl=impl)
    assert torch.equal(out.spikes.double(), spikes) and out.fired == counted(member.neuron, spikes)
    assert 0.02 < (spikes != 0).double().mean() < 0.9
    for found, expected in zip(out.state, state, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


@ON_ALL
@pytest.mark.parametrize("member", [each for each in MEMBERS if each.as_lif], ids=lambda member: member.name)
def test_with_what_it_adds_switched_off_it_is_lif_to_the_bit(member, impl):
    x, g = torch.randn(2, 9, 5, 40)
    shared = {"decay": 0.9, "v_reset": None, "noise_std": 0.2, "guard_margin": 0.3, "strict": False}
    found = []
    for neuron in (neurons.LIF(**shared), member.neuron.changed(**{"gain": 1.0} | shared | member.as_lif)):
        given = x.clone().requires_grad_()
        out = tgo.scan(neuron, given, impl=impl, noise_seed=3)
        found.append(
            (out.spikes, out.state[0], out.penalty, *torch.autograd.grad((out.spikes * g).sum() + out.penalty, given))
        )
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
    assert found[0][0].any() and found[0][3].any()


def _smooth_fire(walk, h, threshold, by):
    """Firing as a sigmoid, whose derivative is known to autograd, and a reset in proportion to it."""
    n = walk.neuron
    u = h + walk.n.noise_std * walk.xi[walk.t] if walk.xi else h
    s = walk.fired = torch.sigmoid(4 * (u - threshold))
    if n.SPIKES is Spikes.TERNARY:
        s = s - torch.sigmoid(4 * (-u - threshold))
    if n.SPIKES is Spikes.INTEGER:
        s = 4 * torch.sigmoid(u - 2)
        by = 1.0
    walk.spikes, walk.h, walk.u, walk.threshold = s, h, u, threshold
    return u - s * (threshold if n.reset_by is None else by) if n.v_reset is None else u + s * (n.v_reset - u)


@EACH
def test_gradients_against_finite_differences(member, monkeypatch):
    """Of inputs, states and every constant, with a smooth spike in fp64, noise and the penalty."""
    monkeypatch.setattr(reference._Walk, "fire", _smooth_fire)
    near = torch.zeros((), dtype=torch.int64)
    monkeypatch.setattr(reference._Walk, "guarded", lambda walk, _: ((walk.h - walk.threshold).square().sum(), near))
    plain = member.neuron.changed(**{n: 0.3 for n in ("target",) if n in member.neuron.OWN}, noise_std=0.2)
    names = [name for name in plain.OWN if name != "reset_by" and getattr(plain, name) is not None]
    values = [torch.tensor(0.1 + float(getattr(plain, name))).double().requires_grad_() for name in names]
    inputs = [x.double().requires_grad_() for x in inputs_of(plain, lambda: torch.randn(5, 3))]
    states = [torch.rand(3).double().requires_grad_() for _ in plain.STATES]
    given = len(values), len(values) + len(inputs)

    def outputs(*leaves):
        guarded = {"guard_margin": 1.0} | member.fixed
        neuron = plain.changed(**dict(zip(names, leaves[: given[0]], strict=True)), **guarded)
        streams = leaves[given[0] : given[1]]
        neuron = neuron.prepared(streams[0], 3)
        out = reference.scan(neuron, streams, leaves[given[1] :], torch.tensor(5), 3)
        return out.spikes, *out.state, out.penalty

    assert torch.autograd.gradcheck(outputs, (*values, *inputs, *states))
    _, *gradients = torch.autograd.grad(
        sum(o.square().sum() for o in outputs(*values, *inputs, *states)), (values[0], *values)
    )
    for name, gradient in zip(names, gradients, strict=True):
        assert gradient != 0, f"{name} learns nothing"


def test_a_threshold_taken_for_a_constant_has_no_gradient():
    x, theta = torch.randn(6, 40, requires_grad=True), torch.tensor(0.3, requires_grad=True)
    found = {}
    for which in ("full", "none"):
        out = tgo.scan(neurons.HomeostaticLIF(theta=theta, adapt_grad=which), x, impl="reference")
        found[which] = out.spikes, torch.autograd.grad(out.spikes.square().sum(), (x, theta))
    assert torch.equal(found["full"][0], found["none"][0])
    assert found["full"][1][1] != 0 and found["none"][1][1] == 0
    assert not torch.equal(found["full"][1][0], found["none"][1][0])


@ON_ALL
def test_a_homeostatic_threshold_takes_back_a_shift_of_the_input(impl):
    """A shift of every input by delta moves the distance to the threshold by so much of it (systems without spikes)."""
    shares = {0.2: (0.8, 1.24, 1.392, 1.3136, 1.05088), 1 / 1.5: (1 / 3, -0.0666667, -1.0533333, -2.5093333, -4.3408)}
    for theta, expected in shares.items():
        neuron = neurons.HomeostaticLIF(theta=theta, decay=0.8, v_threshold=100.0, membrane="h")
        moved = [tgo.scan(neuron, torch.full((t + 1, 1), 0.1), impl=impl) for t in range(5)]
        still = [tgo.scan(neuron, torch.zeros(t + 1, 1), impl=impl) for t in range(5)]
        for a, b, share in zip(moved, still, expected, strict=True):
            distance = (a.membrane[-1] - a.state[1]) - (b.membrane[-1] - b.state[1])
            torch.testing.assert_close(distance, torch.tensor([0.1 * share]), rtol=1e-4, atol=1e-6)


@ON_ALL
@EACH
def test_chunks_and_lengths_are_the_same_steps(member, impl):
    neuron = member.neuron.changed(**({"target": 0.25} if "target" in member.neuron.OWN else {}))
    x, *streams = inputs_of(neuron, lambda: torch.randn(12, 3, 8))

    def scan(begin, end, *state, **options):
        return tgo.scan(neuron, [each[begin:end] for each in (x, *streams)], *state, **options)

    noise = {"noise_std": 0.2, "noise_seed": 5, "membrane": "u", "impl": impl}
    margin = {"guard_margin": member.fixed.get("guard_margin", 0.5)}
    whole = scan(0, 12, **noise)
    first = scan(0, 5, **noise)
    rest = scan(5, 12, first.state, noise_step=5, **noise)
    assert torch.equal(torch.cat([first.spikes, rest.spikes]), whole.spikes)
    assert torch.equal(torch.cat([first.membrane, rest.membrane]), whole.membrane)

    lengths = torch.tensor([12, 5, 0])
    for valid in (lengths, torch.arange(12)[:, None] < lengths):
        out = scan(0, 12, valid=valid, **margin, **noise)
        for b, length in enumerate(lengths.tolist()):
            assert torch.equal(out.spikes[:length, b], whole.spikes[:length, b])
            assert not out.spikes[length:, b].any() and not out.membrane[length:, b].any()
        for found, all_steps, of_five in zip(out.state, whole.state, first.state, strict=True):
            assert torch.equal(found[0], all_steps[0]) and torch.equal(found[1], of_five[1])
            assert torch.equal(found[2], torch.zeros(8))
        assert out.fired == counted(neuron, out.spikes)
        assert torch.equal(scan(0, 12, valid=lengths + 2**32, **noise).spikes, whole.spikes)
        quiet = noise | margin | {"noise_std": 0.0}
        guarded = tgo.scan(neuron, [each[:, :1] for each in (x, *streams)], **quiet)
        alone = scan(0, 12, valid=torch.tensor([12, 0, 0]), **quiet)
        torch.testing.assert_close(alone.penalty, guarded.penalty)


@ON_ALL
def test_an_oscillation_goes_on_in_the_next_chunk(impl):
    x, phase = torch.randn(9, 4, 6), torch.rand(6)
    neuron = neurons.OscillatingLIF(amplitude=0.5, period=3.7, phase=phase)
    whole, first = tgo.scan(neuron, x, impl=impl), tgo.scan(neuron, x[:4], impl=impl)
    rest = tgo.scan(neuron, x[4:], first.state, noise_step=4, impl=impl)
    assert torch.equal(torch.cat([first.spikes, rest.spikes]), whole.spikes)


@ON_ALL
@pytest.mark.parametrize("noise_std", [0.0, 0.3])
def test_a_swapped_oscillation_has_the_gradients_of_another(impl, noise_std):
    """And the spikes, states, penalty and membrane of its own."""
    x, g = torch.randn(2, 9, 4, 6)
    true = neurons.OscillatingLIF(amplitude=0.5, period=3.7, guard_margin=0.5, membrane="u", noise_std=noise_std)
    shown = true.replaced(amplitude=0.3, period=2.5, phase=1.0)
    found = []
    for neuron in (true, shown, true.replaced(swapped=(0.3, 2.5, 1.0))):
        leaf = x.clone().requires_grad_()
        out = tgo.scan(neuron, leaf, impl=impl, noise_seed=5, noise_step=3)
        loss = (out.spikes * g).sum() + 9 * out.penalty + out.state[0].sum() + (out.membrane * g).sum()
        found.append((out, *torch.autograd.grad(loss, leaf)))
    (own, g_own), (_, g_shown), (swapped, g_swapped) = found
    for name in ("spikes", "penalty", "neighbors", "fired", "membrane"):
        assert torch.equal(getattr(swapped, name), getattr(own, name)), name
    assert torch.equal(swapped.state[0], own.state[0])
    torch.testing.assert_close(g_swapped, g_shown)
    assert not torch.allclose(g_swapped, g_own, rtol=0.1)


@ON_ALL
def test_an_infinite_divisor_leaves_the_bias(impl):
    inputs = [torch.rand(4, 10), torch.rand(4, 10), torch.full((4, 10), torch.inf)]
    leaves = [x.requires_grad_() for x in inputs]
    out = tgo.scan(neurons.InhibitedLIF(bias=1.5), leaves, impl=impl)
    assert out.fired == 40
    for g in torch.autograd.grad(out.spikes.sum(), leaves):
        assert torch.equal(g, torch.zeros_like(g))


def test_a_line_in_front_of_a_neuron_is_a_pair_of_its_constants():
    x = dyadic(12, 5, 8)
    scale, shift = torch.tensor([0.5, 2.0, -1.0, 0.25]).repeat(2), torch.tensor([0.25, -0.5, 0.0, 1.0]).repeat(2)
    for member in MEMBERS:
        if len(member.neuron.INPUTS) == 1:
            neuron = member.neuron.changed(**({"target": 0.25} if "target" in member.neuron.OWN else {}))
            expected = tgo.scan(neuron, scale * x + shift, impl="reference")
            found = tgo.scan(neuron.with_input(scale, shift), x, impl="reference")
            assert torch.equal(found.spikes, expected.spikes), member.name
            assert 0 < (found.spikes != 0).float().mean() < 1


def test_a_read_out_is_its_membrane():
    x = torch.randn(7, 5)
    out = tgo.scan(neurons.LeakyIntegrator(decay=0.75, gain=0.5), x)
    assert out.fired == 0 and torch.equal(out.membrane[-1], out.state[0])
    expected = torch.zeros(5)
    for x_t in x:
        expected = 0.75 * expected + 0.5 * x_t
    torch.testing.assert_close(out.state[0], expected)


@ON_ALL
def test_a_ternary_neuron_without_current_is_taken_for_positive(impl):
    """At a membrane of 0 with the threshold there, and in the gradient of everything that has a sign."""
    x = torch.zeros(3, 40, requires_grad=True)
    out = tgo.scan(neurons.TernaryLIF(v_threshold=0.0, guard_margin=0.5, decay=0.0), x, impl=impl)
    assert torch.equal(out.spikes, torch.ones_like(x)) and out.fired == 120 and out.neighbors == 120
    near = tgo.scan(neurons.TernaryLIF(v_threshold=0.3, guard_margin=0.5), x, impl=impl)
    (g,) = torch.autograd.grad(near.penalty, x)
    assert near.fired == 0 and (g[-1] > 0).all()


@ON_ALL
def test_what_is_no_number_is_no_integer(impl):
    x = torch.tensor([torch.nan, -torch.inf, torch.inf, 0.5, 1.5, 2.5, -0.5]).repeat(20)[None].clone().requires_grad_()
    out = tgo.scan(neurons.IntegerLIF(), x, impl=impl)
    assert torch.equal(out.spikes[0, :7], torch.tensor([0.0, 0.0, 4.0, 0.0, 2.0, 2.0, 0.0])) and out.fired == 160
    (g,) = torch.autograd.grad(out.spikes.sum(), x)
    assert torch.equal(g[0, :7], torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]))


@pytest.mark.parametrize("make", [tgo.TernaryLIF, tgo.IntegerLIF], ids=["ternary", "integer"])
def test_such_spikes_are_packed_too(make):
    net = torch.nn.Sequential(torch.nn.Linear(40, 64), make(), torch.nn.Linear(64, 3))
    x, found = 3 * torch.randn(5, 30, 40), []
    for packs in (False, True):
        net.zero_grad()
        if packs:
            packing = tgo.pack_spikes(net)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), lambda t: t):
            net(x).square().sum().backward()
        found.append([p.grad.clone() for p in net.parameters()])
    packing.remove()
    assert all(map(torch.equal, *found))
