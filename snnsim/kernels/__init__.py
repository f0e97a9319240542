"""Kernels: how a table is run over time; they know tables and tensors and nothing else."""
