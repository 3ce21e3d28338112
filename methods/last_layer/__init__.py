"""Posteriors over the answer head alone: one pass, no Jacobians of the base."""

from methods.last_layer import llla

__all__ = ["llla"]
