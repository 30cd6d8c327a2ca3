"""The arithmetic on tensors: the only place that imports torch.

Everything else asks for it through `app.core.arithmetic.load`, so that a process that only answers metadata questions
never pays for torch.
"""
