"""IVON: the optimizer, its diagnostics, and the methods that use them."""

from methods.ivon.ivon import Ivon, IvonMean

__all__ = ["Ivon", "IvonMean"]
