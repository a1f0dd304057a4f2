"""Spiking control by a proxy target: TD3 with a spiking actor (arXiv 2505.24161, NeurIPS 2025) on MuJoCo."""
