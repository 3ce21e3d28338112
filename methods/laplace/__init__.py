"""Laplace approximations: curvature, Kronecker factors, laplace-torch's evidence, and the methods that use them."""

from methods.laplace.laplace import LaplaceDiag, LaplaceKfac

__all__ = ["LaplaceDiag", "LaplaceKfac"]
