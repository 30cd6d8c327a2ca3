"""Arithmetic on tensors: the only package that imports torch.

Other modules get it from `app.core.arithmetic.load`, so that a process that only reads metadata does not import torch.
"""
