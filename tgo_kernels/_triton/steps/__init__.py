"""The steps of the house, as :mod:`tgo_kernels.printer` prints them."""
