"""Triton: its model, and `install`, which brings a server for the tests."""
