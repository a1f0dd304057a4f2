"""The defences of the papers: each is the recipe that its name says, and its training does what the paper says."""

import math
from dataclasses import asdict, replace

import pytest
import torch

pytest.importorskip("tqdm")

from victims import images

import tgo_kernels as tgo
from benchmarks.robustness import data, neurons, study, train
from benchmarks.robustness.models import MEAN, STD, Poisson, with_noise
from benchmarks.robustness.recipe import Recipe
from tgo_kernels.robustness import Effort, Victim, attacks, evaluate, victim

TINY = Effort(1, 2, 2, 2, 1, 1, 2, 2)
SMALL = {"data": "subset", "epochs": 1, "batch": 20, "steps": 2}


@pytest.fixture(scope="module")
def split() -> data.Split:
    return data.load("subset").limited(40, None, seed=0).train


def awake(recipe: Recipe) -> torch.nn.Module:
    """Untrained, but with statistics of real images in its norms, without which its later layers are silent."""
    model, (x, _) = recipe.model(), images(20)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        model(x)
    return model.eval()


@pytest.mark.parametrize("name", study.DEFENCES)
def test_a_defence_is_called_what_its_recipe_says(name):
    recipe = replace(Recipe(), **study.DEFENCES[name])
    assert recipe.defence == name and recipe.name == f"{name}-0"


@pytest.mark.parametrize("name", study.OTHERS)
def test_it_trains_and_its_gradient_reaches_all_that_learns(name, split):
    recipe = Recipe(**SMALL | study.OTHERS[name])
    model = recipe.model()
    before = {key: value.clone() for key, value in model.named_parameters()}
    history = train.fit(model, split, recipe)
    still = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
    assert math.isfinite(history[-1]["loss"]) and not still


def test_other_neurons_are_lif_where_they_are_switched_off():
    """The same weights, and the same answers, to the bit."""
    x, _ = images(4)
    plain = awake(Recipe())
    for name, off in {
        "HoSNN": {"theta": 0.0},
        "prediction": {"rate": 0.0},
        "oscillation": {"amplitude": 0.0},
        "L2P-neuron": {},
        "L2P-channel": {},
    }.items():
        model = Recipe(neurons=name).model().eval()
        model.load_state_dict(plain.state_dict(), strict=False)
        for layer in neurons.layers(model):
            constants = {key: value for key, value in off.items() if key in layer.neuron.OWN}
            layer.neuron = layer.neuron.replaced(**constants)
            for key, value in constants.items():
                if key in dict(layer.named_parameters()):
                    layer._parameters[key].data.fill_(value)
            if name == "HoSNN":
                layer.neuron = layer.neuron.changed(strict=False)
        with torch.no_grad():
            assert torch.equal(model(x), plain(x)), name


def test_the_signature_is_the_mean_potential_on_clean_images():
    x, _ = images(6)
    plain, model = awake(Recipe(**SMALL)), Recipe(**SMALL, neurons="HoSNN").model()
    neurons.record_signature(model, plain, x, batch=4)
    current, v, means = plain.layers[0](((x - MEAN) / STD).unsqueeze(0))[0], 0.0, []
    for _ in range(2):
        h = 0.5 * v + current
        means.append(h.mean(0))
        v = torch.where(h >= 1, 0.0, h)
    torch.testing.assert_close(neurons.layers(model)[0].target.squeeze(1), torch.stack(means))
    assert all(layer.target.shape[:2] == (2, 1) and layer.target.std() > 0 for layer in neurons.layers(model))


def test_the_released_gradient_has_neither_leak_nor_reset_nor_threshold_in_it():
    layer = tgo.Layer(tgo.neurons.HomeostaticLIF(decay=0.5, theta=0.3, target=0.1))
    x = torch.tensor([[0.8, 2.0, 9.0], [0.9, -0.2, 0.3]], requires_grad=True)
    with neurons.as_released(layer):
        spikes = layer(x)
        (g,) = torch.autograd.grad(spikes.sum(), x)
    assert torch.equal(spikes, layer(x))
    h, v = [], torch.zeros(3)
    for t in range(2):
        h.append(0.5 * v + x[t].detach())
        v = torch.where(spikes[t] > 0, 0.0, h[t])
    d = torch.stack(h) - 1
    q = torch.sigmoid(-5 * d.clamp(-1.6, 1.6))
    torch.testing.assert_close(g, 5 * q * (1 - q))
    assert d[0, 2] > 1.6 and 1e-3 < g[0, 2] < 2e-3


def test_learned_widths_are_widened_apart_and_stay_above_the_least():
    model = Recipe(neurons="L2P-channel").model()
    sigma = neurons.sigmas(model)[0]
    assert [len(s) for s in neurons.sigmas(model)] == [16, 32, 64] and (sigma == neurons.SIGMA).all()
    neurons.widened(model, lr=2.0, epoch=1)
    expected = 0.25 + 2.0 * 1e-4 / 1.5 * 0.5 / 0.25**0.5
    torch.testing.assert_close(sigma.detach(), torch.full((16,), expected))
    with torch.no_grad():
        sigma.fill_(-1.0)
    neurons.bounded(model)
    assert (sigma == neurons.LEAST_SIGMA).all()
    groups = train.make_optimizer(model, Recipe()).param_groups
    assert [group["weight_decay"] for group in groups] == [5e-4, 0.0]
    assert set(groups[1]["params"]) == set(neurons.sigmas(model))


def test_theta_and_rates_stay_in_their_bounds():
    homeostatic, predicting = (neurons.layers(Recipe(neurons=name).model()) for name in ("HoSNN", "prediction"))
    with torch.no_grad():
        homeostatic[0].theta.fill_(-1.0)
        predicting[0].rate.fill_(2.0)
    for layers in (homeostatic, predicting):
        neurons.bounded(torch.nn.ModuleList(layers))
    assert (homeostatic[0].theta == 0).all() and (homeostatic[1].theta == neurons.THETA).all()
    assert (predicting[0].rate == 1).all() and (predicting[1].rate == 0.5).all()


@pytest.mark.parametrize("name", [name for name, changes in study.OTHERS.items() if "longer" not in changes])
def test_each_can_be_attacked_with_and_without_noise(name, monkeypatch):
    """Through every stage, a noise that learned its widths by their mean."""
    monkeypatch.setattr(victim, "ANSWERS", 2)
    changes = {key: value for key, value in study.OTHERS[name].items() if key != "steps"}
    recipe, (x, _) = replace(Recipe(), steps=2, **changes), images(3)
    model = recipe.model()
    model(x)
    for noise in (False, True) if recipe.neurons != "ANN" else (False,):
        made = study.prepared(model, recipe, noise)
        outcome = evaluate(made, x, model.eval()(x).argmax(1), noise=noise, effort=TINY)
        assert outcome.through and (not noise or f"margin, EoT-{TINY.many}" in outcome.stood)
    if name.startswith("AT+L2P"):
        for layer in neurons.layers(model):
            layer.noise_std.data.fill_(0.5)
        with made.surrogates(lambda depth: tgo.surrogate.NoisePDF()):
            assert {layer.neuron.surrogate.std for layer in neurons.layers(model)} == {0.5}


def test_poisson_spikes_have_the_pixels_mean_and_its_gradient():
    x, encoder = torch.linspace(0, 1, 11).requires_grad_(), Poisson(4000)
    torch.manual_seed(0)
    spikes = encoder(x)
    assert set(spikes.unique().tolist()) == {-1.0, 0.0, 1.0}
    torch.testing.assert_close(spikes.mean(0), 2 * x - 1, atol=0.05, rtol=0)
    assert (spikes[:, 0] == -1).all() and (spikes[:, -1] == 1).all() and (spikes[:, 5] == 0).all()
    (g,) = torch.autograd.grad(spikes.sum(), x)
    assert torch.equal(g, torch.full_like(g, 8000))  # straight through: 2 a step
    encoder.eval()
    assert torch.equal(encoder(x)[0], 2 * x - 1)
    encoder.switch(True)
    assert not torch.equal(encoder(x)[0], encoder(x)[0])


def test_a_model_of_poisson_input_is_attacked_through_its_spikes():
    model, (x, _) = awake(Recipe(input="Poisson")), images(4)
    victim = Victim(model, switch=model.encoder.switch)
    assert victim.can_be_noisy
    with victim.evaluating(True), torch.no_grad():
        assert victim.noisy and not torch.equal(victim(x), victim(x))
    with victim.evaluating(False), torch.no_grad():
        assert torch.equal(victim(x), victim(x))
    assert not model.encoder.on


def test_trades_is_of_clean_answers_and_of_how_far_an_attack_moves_them(split, monkeypatch):
    recipe = Recipe(**SMALL, method="TRADES", beta=3.0)
    model = awake(recipe)
    x, y = (part[:8] for part in train.tensors(split))
    attack = train.adversary(model, recipe)
    torch.manual_seed(0)
    moved = attack(x, y)
    assert 0 < (moved - x).abs().max() <= recipe.eps + 1e-6
    clean, attacked = model(x).softmax(1), model(moved).softmax(1)
    kl = (clean * (clean.log() - attacked.log())).sum(1).mean()
    expected = torch.nn.functional.nll_loss(clean.log(), y) + 3 * kl
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    assert train.step(model, optimizer, moved, y, 0.0, recipe, x) == pytest.approx(expected.item(), rel=1e-4)
    with Victim(model).evaluating(False), torch.no_grad():
        stray = x + 1e-3 * torch.randn_like(x)
        further = [train.divergence(model(each), clean).mean() for each in (stray, moved)]
    assert further[1] > further[0]


def test_a_checkpoint_from_before_a_setting_had_its_default(tmp_path, split):
    recipe = Recipe(**SMALL)
    path = tmp_path / "x.pt"
    train.fit(recipe.model(), split, recipe, path)
    state = torch.load(path)
    del state["recipe"]["guard_side"], state["recipe"]["neurons"]
    torch.save(state, path)
    assert len(train.fit(recipe.model(), split, recipe, path)) == 1
    with pytest.raises(ValueError, match=r"of another training \(neurons 'LIF', now 'ANN'\)"):
        train.fit(recipe.model(), split, replace(recipe, neurons="ANN"), path)
    assert asdict(recipe)["neurons"] == "LIF"


def test_noise_in_test_is_given_to_what_has_none_of_its_own():
    x, _ = images(4)
    for name in ("HoSNN", "prediction", "oscillation", "L2P-channel"):
        model = with_noise(awake(Recipe(neurons=name)), 0.1)
        widths = {getattr(layer.neuron, "noise_std", None) for layer in neurons.layers(model)}
        assert widths == ({neurons.SIGMA} if name == "L2P-channel" else {0.1})
        with Victim(model).evaluating(True), torch.no_grad():
            assert not torch.equal(model(x), model(x))


def test_swapped_neurons_fire_as_before_and_are_differentiated_as_others():
    model, (x, y) = awake(Recipe(neurons="oscillation")), images(8)
    victim = Victim(model)
    with victim.evaluating(False):
        true, answer = attacks.gradient(victim, x, y)[0], model(x).detach()
        fake = attacks.gradient(Victim(neurons.swap(model)), x, y)[0]
        assert torch.equal(model(x), answer) and not torch.allclose(true, fake)
    neurons.swap(model, None)
    with victim.evaluating(False):
        assert torch.equal(attacks.gradient(victim, x, y)[0], true)
