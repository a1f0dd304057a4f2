"""On a GPU what is known to be spikes is packed, and nothing else: tried on CPU tensors that are treated as a GPU's.

In Triton's interpreter: a process of its own with TRITON_INTERPRET=1.
"""

import os

import pytest
import torch
from torch import nn

import tgo_kernels as tgo
from tgo_kernels import kernels, native, packing, pools
from tgo_kernels import norm as norms

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1, before triton is imported (make test runs it so)", allow_module_level=True)
pytest.importorskip("triton")


def test_packing_needs_one_of_both(monkeypatch):
    monkeypatch.setattr(native, "ERROR", "not here")
    with pytest.raises(RuntimeError, match="needs the compiled extension: not here"):
        tgo.pack_spikes()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    weight = torch.randn(64, 64, requires_grad=True)
    with tgo.pack_spikes():
        y = torch.ones(64, 64) @ weight  # on the CPU then nothing is packed
    y.sum().backward()
    assert torch.equal(weight.grad, torch.full((64, 64), 64.0))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Nothing is looked for, and all kernels are Triton's."""

    def below(operator, *arguments):
        name = operator._schema.name.removeprefix("tgo_kernels::")
        (module,) = (module for module, names in kernels._TRITON.items() if name in names)
        return kernels._call(module, name, *arguments)

    monkeypatch.setattr(packing, "_is_known", lambda tensor: True)
    for module in (packing, norms, pools):
        monkeypatch.setattr(module, "below", below)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = (tgo.OverTime(nn.Conv2d(c, 16, 3, padding=1)) for c in (3, 16))
        self.blocks = nn.ModuleList(
            tgo.Block(nn.BatchNorm2d(16), tgo.LIF(), pool, add=add)
            for pool, add in ((tgo.MaxPool2d(2), None), (None, "spikes"))
        )
        self.last = nn.Linear(16 * 16, 10)

    def forward(self, x):
        x = self.blocks[0](self.first(x))
        return self.last(self.blocks[1](self.second(x), x).flatten(2))


def gradients(model, x):
    model.zero_grad()
    model(x).square().sum().backward()
    return [p.grad.clone() for p in model.parameters()]


def saved(run):
    """What is packed while it runs: sizes and planes."""
    found, make = [], packing._Bits.__init__

    def init(self, tensor, packed):
        make(self, tensor, packed)
        found.append((tuple(tensor.shape), packed.tensor.shape[0]))

    with pytest.MonkeyPatch.context() as patch, tgo.pack_spikes():
        patch.setattr(packing._Bits, "__init__", init)
        run()
    return found


def test_a_network(as_on_a_gpu):
    model, x = Net(), torch.randn(4, 2, 3, 8, 8)
    expected = gradients(model, x)
    found = []
    kept = saved(lambda: found.extend(gradients(model, x)))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    assert kept == [((8, 16, 4, 4), 1), ((8, 256), 2)]  # pooled spikes for a convolution, sums of spikes for a linear
    assert not packing._integers


def test_as_the_compiled_kernels(as_on_a_gpu):
    model, x = Net(), torch.randn(4, 2, 3, 8, 8)
    found = gradients(model, x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(norms, "below", lambda operator, *arguments: operator(*arguments))
        patch.setattr(pools, "below", lambda operator, *arguments: operator(*arguments))
        for a, b in zip(found, gradients(model, x), strict=True):
            torch.testing.assert_close(a, b)


def product(made, written=None):
    """What is packed of a tensor times another one, and the other one's gradient, which is the tensor."""
    result = []

    def run():
        x = made()
        other = torch.ones(x.shape, requires_grad=True)
        result.extend((x.clone(), other, x * other))
        if written:
            written(x)

    kept = saved(run)
    x, other, y = result
    y.sum().backward()
    assert torch.equal(other.grad.to(x.dtype), x)
    return kept


def spikes(*shape):
    return tgo.lif(torch.randn(shape or (4, 64, 32))).spikes


@pytest.mark.parametrize(
    "view",
    [
        lambda s: s,
        lambda s: s[1:],
        lambda s: s[:, ::2],
        lambda s: s.flatten(0, 1),
        lambda s: s.transpose(0, 2),
        lambda s: s[:, 3:, 5:31].permute(2, 0, 1),
    ],
)
def test_views_are_packed(as_on_a_gpu, view):
    """Also where nobody but the view holds the spikes."""
    assert product(lambda: view(spikes())) == [(view(torch.empty(4, 64, 32)).shape, 1)]


def test_several_operators_share_the_bits(as_on_a_gpu):
    def run():
        s = spikes()
        outs.extend(s.flatten(0, 1) @ weight for weight in torch.randn(3, 32, 8, requires_grad=True))
        held.append(s)

    outs, held = [], []
    assert saved(run) == [((256, 32), 1)]
    assert len(packing._integers) == 1
    held.clear()
    outs.clear()
    assert not packing._integers and not packing._packed


def test_bits_are_of_what_it_was(as_on_a_gpu):
    assert product(spikes, lambda s: s.mul_(3)) == [((4, 64, 32), 1)]


def written_through_a_view(s):
    s[2].mul_(3)
    return s


def with_other_data(s):
    s.data = torch.randn(4, 64, 32)
    return s


def at_the_same_address(s):
    """Of a storage that is gone, since its tensor has another one."""
    address = s.untyped_storage()._cdata
    s.data = torch.randn(4, 64, 32)
    others = [torch.randn(4, 64, 32) for _ in range(100)]
    (found,) = (each for each in others if each.untyped_storage()._cdata == address)
    return found


def summed_with(s, other):
    summed = s + other
    packing.note_integers(summed, s, other)
    return summed


NOT_KNOWN = {
    "written to": lambda s: s.mul_(3),
    "written to through a view": written_through_a_view,
    "written to, with another counter": lambda s: s.mul_(3).data,
    "another counter, by which it was written to": lambda s: s.data.mul_(3),
    "another tensor": lambda s: s.set_(torch.randn(4, 64, 32)),
    "other data": with_other_data,
    "another dtype": lambda s: s.view(torch.float16),
    "another value": lambda s: s + 0.5,
    "at the address of what is gone": at_the_same_address,
    "a sum with what is not known": lambda s: summed_with(s, torch.randn(4, 64, 32)),
    "repeated": lambda s: s[:1].expand(3, -1, -1),
    "of a pool that may have no input": lambda s: tgo.MaxPool2d(2, 2, 1, dilation=2)(s),
}


@pytest.mark.parametrize("change", NOT_KNOWN.values(), ids=NOT_KNOWN)
def test_what_is_not_known_is_kept(as_on_a_gpu, change):
    held = []  # so that the spikes are known as long as they could be

    def made():
        held.append(spikes())
        return change(held[0])

    assert product(made) == []
    assert held


def test_spikes_from_before_are_not_known(as_on_a_gpu):
    s = spikes()
    assert not packing._integers
    assert product(lambda: s) == []


def test_sums_of_at_most_seven(as_on_a_gpu):
    def made(count):
        total = spikes()
        for _ in range(count - 1):
            total = summed_with(total, spikes())
        return total

    shape = (4, 64, 32)
    assert [product(lambda n=n: made(n)) for n in (2, 3, 4, 7, 8)] == [*([(shape, p)] for p in (2, 2, 3, 3)), []]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_spikes(as_on_a_gpu, dtype):
    assert product(lambda: tgo.lif(torch.randn(4, 64, 32).to(dtype)).spikes) == [((4, 64, 32), 1)]
