"""Small cases under pytest-benchmark: ``python -m pytest benchmarks/test_small.py``."""

import pytest

from benchmarks.cases import BOTH, PLAIN, Case
from benchmarks.peers import PEERS, step_of
from benchmarks.run import tensors


@pytest.mark.parametrize("neurons", [256, 16384])
@pytest.mark.parametrize("extras", [PLAIN, BOTH], ids=lambda extras: extras.name)
@pytest.mark.parametrize("name", PEERS)
def test_forward_and_backward(benchmark, name, extras, neurons):
    peer, case = PEERS[name], Case("small", f"N{neurons}", 4, (neurons,), extras)
    if peer.missing() or not peer.serves(case):
        pytest.skip(peer.missing() or f"{name} has no {extras.name}")
    benchmark(step_of(peer.make(), case, *tensors(case)))
