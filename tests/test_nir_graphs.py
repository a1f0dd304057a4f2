"""Graphs from elsewhere: each kind of node runs on [T, B, *] or is refused by its name, and so is each graph."""

import nir
import numpy as np
import pytest
import torch
from cases import dyadic
from torch import nn

from tgo_kernels.interop.nir import from_nir, to_nir

T, B = 5, 3


def graph_of(node: nir.NIRNode, *shape: int) -> nir.NIRGraph:
    nodes = {"input": nir.Input(np.array(shape)), "it": node, "output": nir.Output(None)}
    return nir.NIRGraph(nodes, [("input", "it"), ("it", "output")], type_check=False)


def nested(node: nir.NIRNode, *shape: int) -> nir.NIRGraph:
    nodes = {"input": nir.Input(np.array(shape)), "sub": graph_of(node, *shape), "output": nir.Output(None)}
    return nir.NIRGraph(nodes, [("input", "sub"), ("sub", "output")], type_check=False)


ones = np.ones(2)
square = np.array([2, 2])
KINDS = {
    nir.Affine: (nir.Affine(np.eye(2, dtype=int), ones), (2,)),
    nir.Linear: (nir.Linear(np.eye(2)), (2,)),
    nir.Scale: (nir.Scale(ones), (2,)),
    nir.Conv1d: (nir.Conv1d(8, np.ones((2, 2, 3)), 1, 0, 1, 1, None), (2, 8)),
    nir.Conv2d: (nir.Conv2d((8, 8), np.ones((2, 1, 3, 3)), 1, "same", 1, 2, ones), (2, 8, 8)),
    nir.AvgPool2d: (nir.AvgPool2d(square, square, 0 * square), (2, 8, 8)),
    nir.SumPool2d: (nir.SumPool2d(square, square, np.array([1, 0])), (2, 8, 8)),
    nir.Flatten: (nir.Flatten(np.array([2, 8, 8]), 0), (2, 8, 8)),
    nir.IF: (nir.IF(ones, ones), (2,)),
    nir.LIF: (nir.LIF(ones, ones, 0 * ones, ones), (2,)),
    nir.LI: (nir.LI(ones, ones, ones), (2,)),
    nir.I: (nir.I(ones), (2,)),
    nir.CubaLIF: (nir.CubaLIF(ones, ones, ones, 0 * ones, ones), (2,)),
    nir.CubaLI: (nir.CubaLI(ones, ones, ones, ones), (2,)),
    nir.Threshold: (nir.Threshold(ones), (2,)),
    nir.Delay: (nir.Delay(ones), (2,)),
}


def test_all_kinds_of_nodes_are_here():
    ends = {nir.NIRNode, nir.NIRGraph, nir.Input, nir.Output}
    kinds = {kind for kind in vars(nir.ir).values() if isinstance(kind, type) and issubclass(kind, nir.NIRNode)}
    assert kinds - ends == set(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("make", [graph_of, nested])
def test_each_kind_runs_or_is_refused_by_its_name(kind, make):
    node, shape = KINDS[kind]
    name = "it" if make is graph_of else "sub.it"
    if kind in (nir.Scale, nir.CubaLI, nir.Threshold, nir.Delay):
        with pytest.raises(NotImplementedError, match=f"^{name}: no layer computes a {kind.__name__}; known"):
            from_nir(make(node, *shape))
        return
    found, _ = from_nir(make(node, *shape))(torch.rand(T, B, *shape))
    assert found.shape[:2] == (T, B) and found.dtype == torch.float32


def test_sums_of_a_pool(tmp_path):
    node, shape = KINDS[nir.SumPool2d]
    x = dyadic(T, B, *shape)
    expected = 4 * nn.AvgPool2d(2, 2, (1, 0))(x.flatten(0, 1)).unflatten(0, (T, B))
    model = from_nir(graph_of(node, *shape))
    assert torch.equal(model(x)[0], expected)
    nir.write(tmp_path / "pool.nir", to_nir(model, x))
    assert torch.equal(from_nir(tmp_path / "pool.nir")(x)[0], expected)


def plumbed(nodes: dict, *edges: tuple[str, str]) -> nir.NIRGraph:
    ends = {"input": nir.Input(np.array([2])), "output": nir.Output(np.array([2]))}
    return nir.NIRGraph(ends | nodes, list(edges), type_check=False)


def linear() -> nir.NIRNode:
    return nir.Linear(np.eye(2))


recurrent = plumbed({"a": linear(), "b": linear()}, ("input", "a"), ("a", "b"), ("b", "a"), ("a", "output"))


@pytest.mark.parametrize(
    "graph, message",
    [
        (graph_of(nir.Linear(np.ones((2, 3, 4))), 2, 4), r"it: weight must be a matrix, got shape \(2, 3, 4\)"),
        (graph_of(nir.Affine(np.ones((2, 4)), np.ones(3)), 4), r"it: bias must have shape \(2,\), got \(3,\)"),
        (plumbed({"forward": linear()}, ("input", "forward"), ("forward", "output")), "forward: .* rename the node"),
        (graph_of(nir.Flatten(np.array([2, 8]), -3), 2, 8), r"it: start_dim=-3 flattens the batch of inputs \(2, 8\)"),
        (
            graph_of(nir.SumPool2d(square, square, 2 * square), 2, 8, 8),
            r"it: padding=\(4, 4\) is more than half of kernel_size=\(2, 2\)",
        ),
        (graph_of(recurrent, 2), r"this graph is recurrent: it\.. -> it\.. -> it\.."),
        (
            plumbed({"a": linear(), "b": linear()}, ("input", "a"), ("input", "b"), ("a", "output"), ("b", "output")),
            "output: a, b lead to it, but a sum needs a node",
        ),
        (
            plumbed({"a": linear(), "more": nir.Input(ones)}, ("input", "a"), ("more", "a"), ("a", "output")),
            "input, more: a graph needs one Input, got 2",
        ),
        (
            plumbed({"a": linear(), "more": nir.Output(ones)}, ("input", "a"), ("a", "more"), ("a", "output")),
            "output, more: a graph needs one Output, got 2",
        ),
        (plumbed({"a": linear(), "b": linear()}, ("input", "a"), ("a", "output")), "b: nothing leads to it"),
        (
            plumbed({"a.b": linear(), "a_b": linear()}, ("input", "a.b"), ("a.b", "a_b"), ("a_b", "output")),
            "names that differ in . and _ alone: input, output, a.b, a_b",
        ),
    ],
    ids=["matrix", "bias", "name", "flatten", "padding", "recurrent", "sum", "inputs", "outputs", "dangling", "names"],
)
def test_graphs_that_would_not_run_are_refused(graph, message):
    with pytest.raises(ValueError, match=message):
        from_nir(graph)
