"""Ways in from other frameworks: ``spikingjelly.convert(model)``, ``snntorch.convert(model)``.

Nothing of theirs is imported until it is called.
"""
