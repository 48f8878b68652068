"""TorchServe: its handler, its settings, and `serve`, which starts and stops it."""
