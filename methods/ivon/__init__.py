"""IVON: the optimizer, its diagnostics, and the methods that use them."""

from methods.ivon.ivon import Ivon, Ivon2, IvonMean

__all__ = ["Ivon", "Ivon2", "IvonMean"]
