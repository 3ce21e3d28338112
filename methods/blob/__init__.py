"""BLoB: Bayes by backprop on the A factors, its noise, its optimizer, and the methods that use them."""

from methods.blob.blob import Blob, BlobMean

__all__ = ["Blob", "BlobMean"]
