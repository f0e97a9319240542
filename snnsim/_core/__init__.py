"""What every part of the package uses: checks, whole files, autograd and module helpers."""
