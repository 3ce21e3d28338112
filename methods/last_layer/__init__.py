"""Posteriors over the answer head alone: one pass, no Jacobians of the base."""

from methods.last_layer import llla, vbll

__all__ = ["llla", "vbll"]
