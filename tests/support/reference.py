"""An independent merge in numpy: float64 throughout, no matrix product, its own rounding on bit patterns."""

import numpy as np

from tests.support.files import Tensor, decode

UNSIGNED = {"F32": "<u4", "F16": "<u2", "BF16": "<u2"}


def merged(weight: Tensor, a: Tensor, b: Tensor, scale: float, dtype: str) -> np.ndarray:
    """W + B (A * s) in float64, one outer product after another, as bit patterns of `dtype` (shape of W, unsigned)."""
    factor_a = decode(a[2], a[0]).reshape(a[1]) * np.float64(scale)
    factor_b = decode(b[2], b[0]).reshape(b[1])
    delta = np.zeros(tuple(weight[1]))
    for k in range(a[1][0]):
        delta += factor_b[:, k : k + 1] * factor_a[k]
    return rounded(decode(weight[2], weight[0]).reshape(weight[1]) + delta, dtype)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Bit patterns of float64 values in a dtype, half types by way of float32, ties to even."""
    bits = values.astype("<f4").view("<u4")
    if dtype == "F32":
        return bits
    if dtype == "BF16":
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return _half(bits)


def steps_apart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How many numbers of the dtype lie between the numbers of two arrays of bit patterns (0 for +0 and -0)."""
    return np.abs(_ordered(x) - _ordered(y))


def _half(bits: np.ndarray) -> np.ndarray:
    """float32 bit patterns to fp16: normal numbers by rounding 13 bits off, small ones in units of 2^-24."""
    sign, magnitude = bits & np.uint32(0x80000000), bits & np.uint32(0x7FFFFFFF)
    normal = (magnitude + 0xFFF + ((magnitude >> 13) & 1) - ((127 - 15) << 23)) >> 13
    # A float32 below 2^-14 times 2^24 is exact in float64, and numpy's rint goes to even.
    limit = np.uint32((127 - 14) << 23)
    small = np.rint(np.minimum(magnitude, limit).view("<f4").astype(np.float64) * 2.0**24).astype(np.uint32)
    half = np.where(magnitude < limit, small, np.minimum(normal, 0x7C00))
    return (half | (sign >> 16)).astype("<u2")


def _ordered(bits: np.ndarray) -> np.ndarray:
    sign = 1 << (bits.dtype.itemsize * 8 - 1)
    wide = bits.astype(np.int64)
    return np.where(wide & sign, sign - wide, wide)
