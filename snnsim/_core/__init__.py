"""Common ground of all parts: checks, whole files, autograd and module helpers."""
