"""What GPUs would run, read from the compiled kernels; no GPU is needed to know. See ``__main__``."""
