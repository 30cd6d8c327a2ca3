"""Arithmetic on tensors: the only package that imports torch.

Other modules load it through `app.core.arithmetic.load`, so that a process that only reads metadata does not import torch.
"""
