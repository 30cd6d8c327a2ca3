"""Model cards: README.md of merged models, and of patches that brought none. Made of what does not change any more."""

import datetime as dt
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.front_matter import FrontMatter as Front
from app.core.recipe import ARITHMETIC_VERSION
from app.db.patches import PatchVersion
from app.db.ports import Port
from app.text import visible

PAPER = "[PortLLM](https://arxiv.org/abs/2410.10870)"
NOT_SAID = "not said"

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*")
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null"})


@dataclass(frozen=True)
class ModelCard:
    """A card: what its front matter says, and the whole text."""

    front: dict[str, str | list[str]]
    text: str


def merged_card(port: Port, base: Front, patch: Front, has_readme: bool) -> ModelCard:
    """The card of a merged model.

    Args:
        port: ready.
        base: front matter of the release's README.md.
        patch: front matter of the patch's.
        has_readme: whether the release has a README.md, which this card replaces.
    """
    version, release = port.version, port.release
    family, patch_name = release.family.name, version.patch.full_name
    front: dict[str, str | list[str]] = {
        "base_model": f"base/{family}", "base_model_relation": "merge", "library_name": "transformers",
        "pipeline_tag": "text-generation", "tags": ["lora", "merge", "portllm"], **_licence(base, patch),
    }  # fmt: skip
    revision = f"{release.name}@{version.number}"
    replaced = f" It replaces the release's own README.md, which is in `base/{family}` at `{release.name}`." if has_readme else ""
    text = "\n\n".join([
        f"# {patch_name} on {family} {release.name}",
        f"Version {version.number} of the LoRA patch `{patch_name}`, added to release `{release.name}` of `{family}`: "
        f"`W' + s*B*A`, without training and without data ({PAPER}).{replaced}",
        f'```python\nAutoModelForCausalLM.from_pretrained("{patch_name}.merged", revision="{revision}")\n```',
        "## Lineage\n\n" + _table(("", ""), _lineage(port)),
        "## Recipe\n\n" + _table(("", ""), _recipe(port)),
        "## Merge fidelity\n\n" + _fidelity(port.fidelity),
        "## Findings\n\n" + _findings(port.findings),
        "## Licence\n\n" + _table(("", "licence"), [("base", _said(base)), ("patch", _said(patch))])
        + "\n\nAs their README.md says; both apply to the merged model.",
    ])  # fmt: skip
    return ModelCard(front, _with_front(front, text))


def patch_card(version: PatchVersion, release: str | None = None) -> ModelCard:
    """The card of a patch that brought none; `release`: which its configuration was rewritten for."""
    family, trained_on = version.patch.family.name, version.trained_on.name if version.trained_on else "unknown"
    front: dict[str, str | list[str]] = {
        "base_model": f"base/{family}", "base_model_relation": "adapter", "library_name": "peft",
        "pipeline_tag": "text-generation", "tags": ["lora", "portllm"],
    }  # fmt: skip
    facts = version.facts or {}
    rows = [
        ("trained on", f"`{family}` `{trained_on}`"), ("for", f"`{family}` `{release or trained_on}`"),
        ("rank, alpha", f"{facts.get('rank')}, {facts.get('alpha')}"),
        ("modules", _code(", ".join(map(str, facts.get("targets", ()))))),
        ("digest", _code(version.digest)), ("published", _day(version.published_at)),
    ]  # fmt: skip
    text = "\n\n".join([
        f"# {version.patch.full_name}, version {version.number}",
        "A LoRA patch. Its publisher sent no README.md; the registry wrote this one.", _table(("", ""), rows),
    ])  # fmt: skip
    return ModelCard(front, _with_front(front, text))


def _lineage(port: Port) -> Iterable[tuple[str, str]]:
    version, release = port.version, port.release
    yield "patch", f"`{version.patch.full_name}` version {version.number}, {_code(version.digest)}"
    yield "published", _day(version.published_at)
    if version.trained_on:
        yield "trained on", f"`{version.trained_on.name}`, manifest {_code(version.trained_on.manifest)}"
    else:
        yield "trained on", "unknown"
    yield "release", f"`{release.name}`, manifest {_code(release.manifest)}"
    yield "ported", _day(port.ready_at)
    if port.forced or port.reason:
        yield ("forced" if port.forced else "approved"), _cell(port.reason or "")


def _recipe(port: Port) -> Iterable[tuple[str, str]]:
    facts = port.version.facts or {}
    yield "strategy", f"`{port.recipe['strategy']}`"
    yield "dtype", port.recipe["dtype"] or "of each tensor in the release"
    yield "tokenizer", f"the {port.recipe['tokenizer']}'s"
    if "rank" in facts:
        yield "rank, alpha", f"{facts['rank']}, {facts['alpha']}{' (rsLoRA)' if facts['rslora'] else ''}"
    yield "arithmetic", f"version {ARITHMETIC_VERSION}"
    yield "fingerprint", _code(port.fingerprint)


def _fidelity(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "Not measured."
    how = "measured on sampled rows" if found.get("sampled") else "measured over all of it"
    worst = (
        f"; in the worst tensor, {_code(found['worst_tensor'])}, {100 * found['worst']:.1f} %"
        if found.get("worst_tensor")
        else ""
    )
    return f"{100 * found['overall']:.1f} % of the patch survives rounding to the stored dtypes{worst} ({how})."


def _findings(findings: Sequence[Mapping[str, Any]]) -> str:
    if not findings:
        return "None."
    rows = [(f["severity"], _code(f["code"]), _cell(f["message"])) for f in findings]
    return _table(("", "code", "what"), rows)


def _licence(base: Front, patch: Front) -> dict[str, str | list[str]]:
    """What the front matter says: one licence where there is one, else both by name."""
    said = {whose: _said(front) for whose, front in (("base", base), ("patch", patch)) if front.get("license")}
    if not said:
        return {}
    if len(set(said.values())) == 1 and isinstance(licence := (base if "base" in said else patch)["license"], str):
        named = base if "base" in said else patch
        return {"license": licence} | {key: named[key] for key in ("license_name", "license_link") if key in named}
    return {"license": "other", "license_name": "; ".join(f"{whose}: {text}" for whose, text in said.items())}


def _said(front: Front) -> str:
    licence = front.get("license")
    if not licence:
        return NOT_SAID
    text = ", ".join(licence) if isinstance(licence, list) else licence
    name = front.get("license_name")
    return _cell(f"{text} ({name})" if isinstance(name, str) and name else text)


def _with_front(front: Front, text: str) -> str:
    lines = []
    for key, value in front.items():
        if isinstance(value, list):
            lines += [f"{key}:", *(f"- {_scalar(item)}" for item in value)]
        else:
            lines.append(f"{key}: {_scalar(value)}")
    return "\n".join(["---", *lines, "---", "", text, ""])


def _scalar(value: str) -> str:
    """A text in YAML; whatever might be taken for something else is quoted as JSON, which YAML reads too."""
    return value if _PLAIN.fullmatch(value) and value.lower() not in _WORDS else json.dumps(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(text: str) -> str:
    """Escapes a text for a table cell: a single line without control characters or active mark-up."""
    return re.sub(r"([\\`*_|<>\[\]#&~!])", r"\\\1", _line(text))


def _code(text: str | None) -> str:
    """Formats a text as inline code, in or outside a table; the text cannot break out of the code span or the cell."""
    return f"`{_line(str(text)).replace('`', '').replace('|', '¦')}`" if text else NOT_SAID


def _line(text: str) -> str:
    return visible(" ".join(text.split()))


def _day(moment: dt.datetime | None) -> str:
    return moment.strftime("%Y-%m-%d") if moment else NOT_SAID
