"""Spiking control: its neurons by the equations, and the proxy in the place of the target actor."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from benchmarks.control import td3
from benchmarks.control.actors import Encoder, Policy, SpikingActor, neurons
from benchmarks.control.settings import Settings
from benchmarks.control.td3 import TD3, Batch, Replay

LARGEST = np.array([1.0, 2.0], np.float32)
KINDS = ("LIF", "CLIF", "DN")


pytestmark = pytest.mark.usefixtures("one_thread")  # which the benchmark sets, and these networks are small


def one(kind: str, currents: list[float]) -> list[int]:
    """The spikes of one neuron, by the equations in plain Python."""
    v = u = c = 0.0
    spikes = []
    for x in currents:
        if kind == "DN":
            c = 0.5 * c + x
            v, u = v + (v * v - v - u + c), u + (-0.172 * v + 0.529 * u)
            s = int(v > 0.5)
            v, u = (0.021 if s else v), u + 0.132 * s
        else:
            c = 0.5 * c + x if kind == "CLIF" else x
            v = 0.75 * v + c
            s = int(v > 0.5)
            v *= 1 - s
        spikes.append(s)
    return spikes


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("kind", KINDS)
def test_neurons_are_those_of_the_equations(kind, impl):
    x = torch.randn(12, 3, 40, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.1
    found = neurons(kind, impl)(x)
    expected = [one(kind, column.tolist()) for column in x.double().flatten(1).T]
    assert found.flatten(1).T.int().tolist() == expected
    assert 0.05 < found.mean() < 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_neurons_fire_above_the_threshold_and_not_at_it(kind):
    x = torch.tensor([0.5, math.nextafter(0.5, 1) + 1e-7]).view(1, 1, 2)
    assert neurons(kind)(x).flatten().tolist() == [0, 1]


def scanned(kind: str, x: torch.Tensor) -> torch.Tensor:
    """The same in torch, in whose graph the resets are; a spike's derivative is 1 within .5 of the threshold."""

    class Fire(torch.autograd.Function):
        @staticmethod
        def forward(context, d):
            context.save_for_backward(d)
            return (d > 0).to(d)

        @staticmethod
        def backward(context, gradient):
            return gradient * (context.saved_tensors[0].abs() < 0.5)

    v = u = c = torch.zeros_like(x[0])
    spikes = []
    for current in x:
        c = (0.0 if kind == "LIF" else 0.5) * c + current
        if kind == "DN":
            v, u = v + (v * v - v - u + c), u + (-0.172 * v + 0.529 * u)
        else:
            v = 0.75 * v + c
        s = Fire.apply(v - 0.5)
        v = v * (1 - s) + (0.021 * s if kind == "DN" else 0.0)
        u = u + 0.132 * s
        spikes.append(s)
    return torch.stack(spikes)


@pytest.mark.parametrize("kind", KINDS)
def test_their_gradients_go_through_the_reset(kind):
    draw = torch.Generator().manual_seed(2)
    x, weight = (torch.randn(5, 4, 30, generator=draw, dtype=torch.float64) * 0.5 for _ in range(2))
    exact, fused = x.clone().requires_grad_(), x.float().requires_grad_()
    (scanned(kind, exact) * weight).sum().backward()
    (neurons(kind)(fused) * weight.float()).sum().backward()
    torch.testing.assert_close(fused.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)
    assert exact.grad.abs().sum() > 0


def test_the_encoder_is_a_naive_loop():
    encoder = Encoder(2)
    observation = torch.tensor([[0.0, 0.3], [-0.9, 1.0]])
    spikes = encoder(observation)
    assert spikes.shape == (5, 2, 20)
    mu = [-1 + 2 * k / 9 for k in range(10)]
    for b in range(2):
        for i in range(20):
            o = observation[b, i // 10].item()
            a, v = math.exp(-((o - mu[i % 10]) ** 2) / (2 * 0.05)), 0.0
            for t in range(5):
                v += a
                s = int(v > 0.999)
                v -= 0.999 * s
                assert spikes[t, b, i] == s, (b, i, t)
    assert 0 < spikes.mean() < 0.5


def test_the_derivative_of_an_encoders_spikes_is_one():
    """Through h = v + a and v = h - .999 s, ds[t]/da is 1 + .001 + .001^2 ..."""
    encoder = Encoder(3)
    observation = torch.linspace(-0.9, 0.9, 12).view(4, 3)
    encoder(observation).sum().backward()
    through = sum(sum(0.001**k for k in range(t + 1)) for t in range(5))
    found = {name: p.grad.clone() for name, p in encoder.named_parameters()}
    encoder.zero_grad()
    fields = torch.exp(-(observation.unsqueeze(-1) - encoder.mu).square() / (2 * encoder.sigma.square()))
    (through * fields.sum()).backward()
    assert set(found) == {"mu", "sigma"}
    for name, p in encoder.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_decoder_weighs_the_rates_of_each_actions_population():
    actor = SpikingActor("LIF", 3, torch.from_numpy(LARGEST), 16)
    seen = torch.randn(7, 3)
    rates = actor.spikes(seen)[-1].mean(0)
    weight, bias = actor.decoder.weight, actor.decoder.bias
    for b, action in enumerate(actor(seen)):
        for k, largest in enumerate(LARGEST):
            sum_of = sum(rates[b, 10 * k + j] * weight[k, 0, j] for j in range(10))
            assert action[k].item() == pytest.approx(float(largest * torch.tanh(sum_of + bias[k])), abs=1e-6)
    assert actor.spikes(seen)[0].equal(actor.encoder(seen.tanh()))
    assert [each.shape[-1] for each in actor.spikes(seen)] == [30, 16, 16, 20]


@pytest.mark.parametrize("kind", KINDS)
def test_engines_act_alike(kind):
    actors = [TD3(Settings("any", kind, hidden=32), 5, LARGEST, impl).actor for impl in ("auto", "reference")]
    seen = torch.randn(20, 5, generator=torch.Generator().manual_seed(3))
    assert all(a.equal(b) for a, b in zip(*(actor.spikes(seen) for actor in actors), strict=True))
    for actor in actors:
        actor(seen).square().sum().backward()
    for a, b in zip(*(actor.parameters() for actor in actors), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def batch_of(count: int) -> Batch:
    draw = torch.Generator().manual_seed(4)
    seen, after = torch.randn(2, count, 3, generator=draw)
    action, reward = torch.rand(count, 2, generator=draw) - 0.5, torch.randn(count, generator=draw)
    return Batch(seen, action, reward, after, (torch.arange(count) % 3 == 0).float())


def copy_of(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(before: list[torch.Tensor], module: torch.nn.Module) -> bool:
    return all(map(torch.equal, before, module.parameters()))


@pytest.mark.parametrize("updates", [1, 3])
def test_a_proxy_follows_the_actor_so_many_times_in_each_update(updates, monkeypatch):
    agent = TD3(Settings("any", proxy_updates=updates, hidden=16), 3, LARGEST)
    assert isinstance(agent.target, Policy)
    batches, averaged = [], []
    monkeypatch.setattr(td3, "average", lambda *given: averaged.append(given))

    def sample():
        batches.append(batch_of(8))
        return batches[-1]

    actor, proxy, random = copy_of(agent.actor), copy_of(agent.target), np.random.default_rng(0)
    agent.update(1, sample, random)
    assert len(batches) == updates and same(actor, agent.actor) and not same(proxy, agent.target) and not averaged
    agent.update(2, sample, random)
    assert len(batches) == 2 * updates and not same(actor, agent.actor)
    assert averaged == [(agent.critic_targets, agent.critics, 0.005)]
    steps = {name: {int(state["step"]) for state in each.state.values()} for name, each in agent.optimizers.items()}
    assert steps == {"target": {2 * updates}, "critics": {2}, "actor": {1}}


def test_a_proxy_comes_nearer_by_the_gradient_of_the_squared_distance():
    agent = TD3(Settings("any", hidden=16, proxy_lr=1e-3), 3, LARGEST)
    seen, actor = batch_of(64).observation, copy_of(agent.actor)
    distance = lambda: (agent.actor(seen) - agent.target(seen)).square().mean().item()  # noqa: E731
    before = distance()
    for _ in range(30):
        agent.follow(seen)
    assert distance() < 0.2 * before and same(actor, agent.actor)
    assert all(p.grad is None for p in agent.actor.parameters())


def test_without_a_proxy_the_target_is_the_average_of_the_actor():
    agent = TD3(Settings("any", target="average", hidden=16), 3, LARGEST)
    old, random = copy_of(agent.target), np.random.default_rng(0)
    agent.update(1, lambda: batch_of(8), random)
    assert same(old, agent.target) and same(old, agent.actor)
    agent.update(2, lambda: batch_of(8), random)
    new = [0.995 * a + 0.005 * b for a, b in zip(old, agent.actor.parameters(), strict=True)]
    for expected, p in zip(new, agent.target.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), expected.detach())
    assert not same(old, agent.target) and "target" not in agent.optimizers


class Drawn:
    """A generator whose normal numbers are all this one."""

    def __init__(self, value):
        self.value = value

    def standard_normal(self, shape, dtype):
        return np.full(shape, self.value, dtype)


def test_critics_descend_to_their_target_and_the_actor_climbs_the_first(monkeypatch):
    agent, batch = TD3(Settings("any", hidden=16), 3, LARGEST), batch_of(9)
    losses, expected = {}, {}
    monkeypatch.setattr(agent, "descend", lambda name, loss: losses.update({name: loss.item()}))
    agent.update(2, lambda: batch, Drawn(0.3))
    wanted = agent.targets(batch, Drawn(0.3))
    first, second = agent.critics(batch.observation, batch.action)
    expected["critics"] = (first - wanted).square().mean() + (second - wanted).square().mean()
    expected["actor"] = -agent.critics(batch.observation, agent.actor(batch.observation))[0].mean()
    expected["target"] = (agent.actor(batch.observation) - agent.target(batch.observation)).square().mean()
    assert losses == pytest.approx({name: loss.item() for name, loss in expected.items()}, rel=1e-5)


@pytest.mark.parametrize(("drawn", "by"), [(9.0, 0.5), (-9.0, -0.5), (1.0, 0.2)])
def test_the_noise_of_a_next_action_and_the_action_have_limits(drawn, by):
    agent, batch, seen = TD3(Settings("any", hidden=16), 3, LARGEST), batch_of(2), []
    largest = torch.from_numpy(LARGEST)
    agent.target = torch.nn.Identity()
    agent.critic_targets.register_forward_hook(lambda _, given, values: seen.append(given[1]))
    batch = batch._replace(after=torch.stack([0.1 * largest, 0.9 * largest]))
    agent.critic_targets.both = torch.nn.ModuleList(torch.nn.Linear(4, 1) for _ in range(2))
    agent.targets(batch, Drawn(drawn))
    torch.testing.assert_close(seen[0], torch.stack([(0.1 + by) * largest, min(0.9 + by, 1.0) * largest]))


@pytest.mark.parametrize(("drawn", "expected"), [(9.0, 1.0), (-9.0, 0.0), (0.5, 0.95)])
def test_what_is_explored_is_within_the_limits_of_an_action(drawn, expected, monkeypatch):
    agent = TD3(Settings("any", hidden=16, exploration=0.1), 3, LARGEST)
    monkeypatch.setattr(agent, "act", lambda observation: 0.9 * LARGEST)
    found = agent.explore(np.zeros(3, np.float32), Drawn(drawn))
    assert found == pytest.approx(expected * LARGEST, abs=1e-6)


@pytest.mark.parametrize("target", ["proxy", "average"])
@torch.no_grad()
def test_the_critics_target(target):
    agent = TD3(Settings("any", target=target, hidden=16), 3, LARGEST)
    batch = batch_of(9)
    found = agent.targets(batch, np.random.default_rng(7))
    noise = np.random.default_rng(7).standard_normal((9, 2), np.float32)
    for i in range(9):
        action = agent.target(batch.after[i : i + 1])[0]
        moved = [min(max(0.2 * float(n), -0.5), 0.5) * float(m) for n, m in zip(noise[i], LARGEST, strict=True)]
        action = [min(max(float(a) + d, -m), m) for a, d, m in zip(action, moved, LARGEST.tolist(), strict=True)]
        values = agent.critic_targets(batch.after[i : i + 1], torch.tensor([action]))
        expected = float(batch.reward[i]) + (0.0 if i % 3 == 0 else 0.99 * min(float(q) for q in values))
        assert found[i].item() == pytest.approx(expected, abs=1e-5)


def test_transitions_are_what_was_added_and_the_oldest_are_left_out(tmp_path, monkeypatch):
    replay = Replay(tmp_path / "file", 50, 3, 2)
    for i in range(50):
        replay.add(i, np.full(3, i), np.full(2, -i), 0.5 * i, np.full(3, i + 1), float(i % 2))
    batch = replay.sample(np.random.default_rng(0), 200, 30)
    i = batch.observation[:, 0]
    assert batch.observation.shape == batch.after.shape == (200, 3) and batch.action.shape == (200, 2)
    assert set(i.int().tolist()) == set(range(30))
    assert batch.reward.equal(0.5 * i) and batch.ended.equal(i % 2)
    assert batch.action[:, 1].equal(-i) and batch.after[:, 2].equal(i + 1)
    monkeypatch.setattr(td3, "WINDOW", 10)
    assert replay.sample(np.random.default_rng(0), 200, 45).observation.min() == 35
    assert Replay(tmp_path / "file", 50, 3, 2).rows[7, 0] == 7
