"""Masked gradients that are planted: the suite breaks each, and the checklist says why. One line less, and it does not.

Of :class:`victims.Scale` an attack that sees everything leaves nothing: within eps there is an image of the other kind.
"""

import pytest
import torch

pytest.importorskip("pyautoattack")
pytest.importorskip("matplotlib")

from victims import Scale, grey, images

import tgo_kernels as tgo
from benchmarks.robustness import neurons, study
from tgo_kernels.robustness import Effort, Victim, checklist, evaluate
from tgo_kernels.robustness.suite import QUIET

EFFORT = Effort(draws=16, margin_steps=10, search=200, iterations=20, many=16, queries=50, apgd_steps=5)
BLIND = "PGD20, EoT", "margin, EoT-16", "local search, EoT-16"
LAST = ("margin, ATan(8)", "margin, ATan(8) to ATan(2) by layer", "margin, ATan(1) to ATan(16)", "local search")


def attacked(model: torch.nn.Module | Victim, *attacks: str, **options):
    x, y = grey(**{"side": options.pop("side", 6)})
    return evaluate(model, x, y, effort=EFFORT, attacks=attacks, **options)


def failed(outcome) -> set[str]:
    return {name for name, passed in checklist(outcome).items() if not passed}


def test_without_a_mask_nothing_is_left_and_nothing_fails():
    outcome = attacked(Scale(), "random", "FGSM", "PGD10", "PGD20", "PGD40", "SA-PGD + ASSG", *LAST)
    assert outcome.shares["clean"] == outcome.shares["random"] == 1 and outcome.shares["FGSM"] == outcome.worst == 0
    assert not failed(outcome) and len(checklist(outcome)) >= 6


def test_shattered_gradients():
    """Rounded images: every gradient is 0; the search needs none, and ties, or it stays where it is."""
    outcome = attacked(Scale(before=lambda x: (x * 255 / 4).round() * 4 / 255), "PGD20", "SA-PGD + ASSG", *LAST)
    assert outcome.shares["PGD20"] == outcome.shares["SA-PGD + ASSG"] == 1 and outcome.worst == 0
    assert outcome.alone["local search"] > 0
    assert {"a gradient reaches every image", "search finds little more than gradients"} <= failed(outcome)


def test_vanishing_gradients():
    """Scaled logits: those of the cross entropy are 0, those of the margin are not."""
    outcome = attacked(Scale(after=lambda logits: 1e5 * logits), "PGD20", "SA-PGD + ASSG", *LAST)
    assert outcome.shares["PGD20"] == outcome.shares["SA-PGD + ASSG"] == 1
    assert outcome.shares["margin, ATan(8)"] == outcome.worst == 0
    assert failed(outcome) == {"the margin finds little more than cross entropy"}


def test_a_surrogate_that_no_membrane_reaches():
    """The search is not needed: other surrogates, and ASSG, do."""
    names = "PGD20", "PGD40", "SA-PGD + ASSG", "PGD20, ATan(4)", "PGD20, Sigmoid(4)", "PGD20, Triangle(1)"
    outcome = attacked(Scale(neurons=10, surrogate=tgo.Rectangle(0.01)), *names, *LAST[:-1])
    assert outcome.shares["PGD20"] > 0.5 and outcome.shares["SA-PGD + ASSG"] < 0.1 and outcome.worst == 0
    assert {"no other surrogate finds more", "SA-PGD + ASSG finds little more than PGD40"} <= failed(outcome)


class Swapped(Scale):
    """Fires as it is, and is differentiated as neurons that oscillate, far from their thresholds."""

    def __init__(self) -> None:
        super().__init__()
        neuron = tgo.neurons.OscillatingLIF(decay=0.0, amplitude=4.0, period=2.0, surrogate=tgo.Triangle(1.0))
        self.fake = tgo.Layer(neuron)

    def rates(self, x: torch.Tensor) -> torch.Tensor:
        fake = self.fake(x)
        return fake + (self.lif(x) - fake).detach()


def test_a_swapped_backward():
    """Broken by a transfer from the plain twin, and by SA-PGD + ASSG."""
    names = "PGD20", "PGD40", "PGD20, ATan(4)", "PGD20, Sigmoid(4)", "PGD20, Triangle(1)", "transfer", "SA-PGD + ASSG"
    outcome = attacked(Swapped(), *names, twin=Scale())
    assert outcome.shares["PGD20"] == 1 and outcome.shares["transfer"] == outcome.shares["SA-PGD + ASSG"] == 0
    assert {"white-box beats transfer", "SA-PGD + ASSG finds little more than PGD40"} <= failed(outcome)


def test_the_swapped_backward_of_a_trained_network():
    """Of the study: PGD is blind, and whoever puts another surrogate in its place differentiates what fires."""
    (recipe,) = (each for each in study.STUDIES["full"].recipes() if each.defence == "BPTT+oscillation")
    model, (x, y) = recipe.model(), images(24)
    model.load_state_dict(torch.load(study.STUDIES["full"].out / "BPTT+oscillation-0.pt")["model"])
    neurons.swap(model)
    names = "PGD20", "PGD40", "PGD20, ATan(4)", "SA-PGD + ASSG"
    outcome = evaluate(model, x, y, effort=EFFORT, attacks=names)
    left = outcome.shares
    assert left["PGD40"] > left["clean"] - 0.1 and max(left["PGD20, ATan(4)"], left["SA-PGD + ASSG"]) < 0.6, left
    assert {"no other surrogate finds more", "SA-PGD + ASSG finds little more than PGD40"} <= failed(outcome)
    assert all(layer.neuron.swapped == neurons.SWAPPED for layer in neurons.layers(model))


class Stochastic(Scale):
    """Each draw adds to the logits a line of its own through grey, whose gradient drowns the model's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        line = 0.6 * torch.randn(2, *x.shape)
        return super().forward(x) + ((x - 0.5) * line).sum((2, 3, 4)).T


def test_stochastic_gradients():
    """One draw's lead nowhere, the mean of many do: in each attack but those that papers report."""
    many = "PGD20, EoT", "PGD20, ATan(4)", "PGD20, Triangle(1)", "PGD20, BPTR", "PGD20, RGA", "transfer"
    outcome = attacked(Stochastic(), "PGD20", *many, "SA-PGD + ASSG", noise=True, side=12, twin=Stochastic())
    left = {name: outcome.accuracy(name) for name in many}
    assert outcome.accuracy("clean") > 0.95 and outcome.accuracy("PGD20") > 0.9 and max(left.values()) < 0.5, left
    assert outcome.accuracy("SA-PGD + ASSG") < 0.5 and outcome.worst < 0.1
    assert "EoT finds little more than a single draw" in failed(outcome)


def test_gradients_of_a_noise_that_can_be_turned_off():
    """One draw's lead nowhere, those without it do."""

    class Own(Stochastic):
        on = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if self.on else Scale.forward(self, x)

    model = Own()
    victim = Victim(model, switch=lambda on: setattr(model, "on", on))
    outcome = attacked(victim, "PGD20", QUIET, noise=True, side=12)
    assert outcome.accuracy("PGD20") > 0.9 and outcome.accuracy(QUIET) < 0.1


def test_the_last_attack_on_noise_takes_the_mean_of_more_draws():
    outcome = attacked(Stochastic(), "PGD20", "margin, EoT-16", noise=True, side=12)
    assert outcome.accuracy("PGD20") > 0.9 and outcome.worst < 0.1


def test_noise_without_a_switch_hides_nothing_from_the_search():
    """Shattered gradients behind a noise of the model's own, which nothing turns off."""

    class Own(Scale):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 0.01 * torch.randn(len(x), 2)

    outcome = attacked(Own(before=lambda x: (x * 255 / 4).round() * 4 / 255), *BLIND, noise=True)
    assert outcome.shares["PGD20, EoT"] == outcome.shares["margin, EoT-16"] == 1 and outcome.worst < 0.3


def test_a_model_that_asks_whether_it_is_differentiated_is_refused():
    with pytest.raises(ValueError, match="answers otherwise where no gradient is asked for"):
        attacked(Scale(after=lambda logits: logits if torch.is_grad_enabled() else -logits), "PGD20")


def test_a_state_that_goes_on_to_the_next_image_is_reset():
    """As without it; where nothing resets it, the model is refused."""
    plain, kept = (Scale(stateful=stateful, decay=0.9) for stateful in (False, True))
    a, b = (attacked(model, "PGD20", *LAST) for model in (plain, kept))
    assert a.stood.keys() == b.stood.keys() and all(torch.equal(a.stood[name], b.stood[name]) for name in a.stood)
    assert kept.lif.v is None

    class Own(Scale):
        level = torch.zeros(())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.level = self.level + x.mean().detach()
            return super().forward(x) + self.level * torch.tensor([0.1, 0.0])

    for noise, said in ((False, "without noise"), (True, "with the same seed")):
        with pytest.raises(ValueError, match=f"Own cannot be attacked soundly: the same images .*, {said}"):
            attacked(Own(), "PGD20", noise=noise)


def test_a_state_that_reaches_one_image_of_a_batch_is_refused():
    class Own(Scale):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            first = (torch.arange(len(x)) == 0).float().view(-1, 1)
            return super().forward(x) + self.calls * first * torch.tensor([0.1, 0.0])

    with pytest.raises(ValueError, match="the same images give other logits the second time, without noise"):
        attacked(Own(), "PGD20")


def test_logits_that_are_no_numbers_are_refused():
    """Nothing is above them."""
    with pytest.raises(ValueError, match="Scale must give finite logits, got "):
        attacked(Scale(after=lambda logits: logits.masked_fill(logits < 0, torch.nan)), "PGD20")


def test_a_detached_graph_is_refused():
    with pytest.raises(ValueError, match="Scale cannot be attacked soundly: its graph is detached from the image"):
        attacked(Scale(before=torch.Tensor.detach), "PGD20")


def test_an_answer_that_depends_on_the_batch_is_refused():
    model = Scale(after=lambda logits: logits - logits.mean(0))
    with pytest.raises(ValueError, match="an image's logits depend on the others of its batch"):
        attacked(model, "PGD20")


def test_a_noisy_answer_that_depends_on_the_batch_is_refused():
    """Where no switch turns the noise off, in the mean of many draws."""
    attacked(noisy := Stochastic(), "FGSM", noise=True)
    noisy.after = lambda logits: logits - logits.mean(0)
    with pytest.raises(ValueError, match="an image's logits depend on the others of its batch"):
        attacked(noisy, "FGSM", noise=True)


def test_noise_that_is_not_said_is_refused_and_noise_that_is_not_there():
    with pytest.raises(ValueError, match=r"other logits the second time, without noise.*say noise=True"):
        attacked(Stochastic(), "PGD20")
    victim = Victim(Stochastic())
    attacked(victim, "FGSM", noise=True)
    assert not victim.noisy  # it was asked for that once
    with pytest.raises(ValueError, match="noise=True, but Scale gives the same logits in every call: it has none"):
        attacked(Scale(), "PGD20", noise=True)
