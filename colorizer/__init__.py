"""Colour for black-and-white photographs.

Importing this costs numpy and Pillow; torch is loaded by the parts that run a network.
"""

__version__ = "0.1.0"
