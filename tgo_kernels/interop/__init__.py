"""Ways in from other frameworks: ``spikingjelly.convert(model)``, ``snntorch.convert(model)``, ``nir.from_nir(graph)``.

Nothing of theirs is imported until it is called.
"""
