"""A package of its own: some that are installed bring one named tests, which would win else."""
