"""Tessella: one toolkit for the whole life of a Vision Transformer."""

__version__ = "0.1.0"
