"""What the attacks share: the module that the good patch changes, and the question that all of them ask."""

from collections.abc import Callable
from pathlib import Path

from app.core.errors import CoreError

MODULE = "model.layers.0.self_attn.q_proj"
PATIENCE = 2.0  # seconds of processor time that an attack may cost

Refusal = Callable[[Path, Path], CoreError]
