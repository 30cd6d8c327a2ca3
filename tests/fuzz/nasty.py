"""What formats make of hostile hands: spoilt bytes, odd numbers and names, headers and configurations with them inside."""

import json
from typing import Any

from hypothesis import strategies as st

from tests.support.files import raw_file

NUMBERS = [
    "1e400", "-1e400", "NaN", "Infinity", "-0", "-0.0", "9223372036854775808", "18446744073709551616",
    "9" * 5000, "1e-400", "0.1", "true", "null", "-1", "2.0",
]  # fmt: skip
NAMES = [
    "", ".", "..", "../../etc/passwd", "/dev/zero", "C:\\x", "a\0b", "con", "adapter_config.json", "a" * 1000, "\u202e", "\ufeff",
    "\u0430", "__proto__", "__metadata__", "{0.__class__}", "%s%n", "a\r\nb", "~", "*", "{}", "$(id)", "<script>",
]  # fmt: skip
# As JSON text: what json.dumps would refuse to write, or would write otherwise.
ODD_TEXTS = ['"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', *NUMBERS, *(json.dumps(name) for name in NAMES), "[]", "{}", "[[]]"]
DEPTHS = [10, 400, 990, 1_100, 100_000]
ENDS = st.sampled_from([b"", b"\0", b" ", b"\xff", b"\n" * 8, b"{}"])


@st.composite
def spoilt(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes with a few of them turned, cut out, doubled, put elsewhere or written over."""
    out = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(out) - 1)))
        length = draw(st.integers(0, min(64, len(out) - at)))
        match draw(st.integers(0, 5)):
            case 0 if out:
                out[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                del out[at:]
            case 2:
                del out[at : at + length]
            case 3:
                out[at:at] = out[at : at + length]
            case 4:
                out[at : at + length] = draw(st.binary(max_size=32))
            case _:
                out += draw(ENDS)
    return bytes(out)


@st.composite
def swapped(draw: st.DrawFn, text: bytes) -> bytes:
    """JSON of which a few values became others, a key appears twice, or something is nested as deep as it likes."""
    tree = json.loads(text)
    for _ in range(draw(st.integers(1, 3))):
        node: Any = tree
        while isinstance(node, (dict, list)) and node:
            key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
            if isinstance(node[key], (dict, list)) and node[key] and draw(st.booleans()):
                node = node[key]
                continue
            node[key] = f"@{draw(st.integers(0, len(ODD_TEXTS) - 1))}@"
            break
    if draw(st.booleans()):
        tree[draw(st.sampled_from(NAMES))] = tree[draw(st.sampled_from(sorted(tree)))]
    out = json.dumps(tree)
    for number, odd in enumerate(ODD_TEXTS):
        out = out.replace(f'"@{number}@"', odd)
    if draw(st.booleans()):
        first, _, rest = out[1:].partition(",")
        out = "{" + first + "," + first + ("," + rest if rest else "}")
    if draw(st.integers(0, 3)) == 0:
        depth, pair = draw(st.sampled_from(DEPTHS)), draw(st.sampled_from([("[", "]"), ('{"a":', "}"), ("[", "")]))
        out = out[:-1] + ',"deep":' + pair[0] * depth + (pair[1] and "1" + pair[1] * depth) + "}"
    return draw(st.sampled_from(["", "\ufeff"])).encode() + out.encode() if draw(st.booleans()) else out.encode()


TAGS = [
    "!!int", "!!float", "!!bool", "!!null", "!!timestamp", "!!binary", "!!omap", "!!pairs", "!!set", "!!seq",
    "!!map", "!!str", "!!merge", "!!value", "!!python/object:os.system", "!!python/name:os", "!", "!x", "!<>",
    "!<!int>", "!!", "&a", "*a", "",
]  # fmt: skip
SCALARS = st.one_of(
    st.sampled_from([
        "''", "x", "0x", "0b2", "1:x", "2001-99-99", "[a, b]", "{a: b}", "[a, [b]]", "? [a]", ">\n  x", "|2\n x", "=", "<<", "~",
        "%", "@", "`", '"\\UFFFFFFFF"', '"\\ud800"', '"\\x1b[31m"', "\u00e9", "- a", "'", "{", "\t",
    ]),
    st.sampled_from(NUMBERS), st.text(max_size=12),
)  # fmt: skip
KEYS = st.sampled_from(["license", "license_name", "tags", "language", "base_model", "<<", "? [a]\n", "x", "%YAML 1.2", "---"])


@st.composite
def cards(draw: st.DrawFn) -> bytes:
    """README.md with a front matter: tagged scalars, merges, anchors, documents in documents, or any text."""
    line = st.tuples(KEYS, st.sampled_from(TAGS), SCALARS).map(lambda parts: f"{parts[0]}: {parts[1]} {parts[2]}")
    return "\n".join(["---", *draw(st.lists(line, max_size=5)), "---", draw(st.text(max_size=10))]).encode(errors="replace")


RECODED = ["utf-16", "utf-32", "utf-8-sig", "utf-7", "cp037"]


def configs(good: bytes) -> st.SearchStrategy[bytes]:
    """adapter_config.json: as it should be, spoilt, with other values, in another encoding, or any bytes."""
    other = st.sampled_from([good.decode().encode(code) for code in RECODED])
    return st.one_of(st.just(good), spoilt(good), swapped(good), other, st.binary(max_size=200))


def weights(good: bytes) -> st.SearchStrategy[bytes]:
    """A safetensors file: as it should be, spoilt, with another header, or with a length that lies."""
    length = int.from_bytes(good[:8], "little")
    header, data = good[8 : 8 + length], good[8 + length :]
    lengths = st.one_of(
        st.integers(0, 2 * length), st.sampled_from([100 * 2**20, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1])
    )  # fmt: skip
    renamed = swapped(header).map(lambda text: raw_file(text, data))
    lying = lengths.map(lambda claimed: raw_file(header, data, claimed))
    spliced = spoilt(header).map(lambda text: raw_file(text, data))
    return st.one_of(st.just(good), spoilt(good), renamed, lying, spliced, st.binary(max_size=200))
