"""Methods that drop vision tokens within the decoder, by what the text attends to; ``docs/sparsevlm.md``.

``svdprune_ext.apply(model, method="sparsevlm", tokens=192)``, or behind another method:
``svdprune_ext.apply(model, keep=192, then=SparseVLM(tokens=64))``.
"""

from svdprune_ext.in_decoder.last_token import FastV, PyramidDrop
from svdprune_ext.in_decoder.method import DecoderMethod
from svdprune_ext.in_decoder.sparsevlm import SparseVLM

__all__ = ["METHODS", "DecoderMethod", "FastV", "PyramidDrop", "SparseVLM"]

METHODS = {
    method.name: method for method in (SparseVLM, FastV, PyramidDrop)
}  # by name in ``apply``
