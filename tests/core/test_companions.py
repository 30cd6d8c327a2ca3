"""What a port is told about the files beside the weights."""

import json
from pathlib import Path

from app.core.offline import Inspection, inspect
from app.core.recipe import Recipe
from tests.support.models import CHAT_TEMPLATE, Shelf, make_base, make_patch, make_tokenizer


def findings(found: Inspection) -> dict[str, tuple[str, object]]:
    return {f.code: (f.severity, f.data.get("files")) for f in found.findings}


def test_a_tokenizer_of_the_patch_that_differs_is_a_warning(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", tokenizer=True)
    patch = make_patch(base, tmp_path / "patch", tokenizer=True)
    assert findings(inspect(base, base, patch)).keys() == {"lineage.measured"}

    make_tokenizer(patch, chat_template=CHAT_TEMPLATE + " ")
    found = inspect(base, base, patch)
    assert findings(found)["chat_template.differs"] == ("warn", ["chat_template.jinja"])
    assert "tokenizer.differs" not in findings(found)
    assert found.portable

    config = json.loads((patch / "tokenizer_config.json").read_text())
    (patch / "tokenizer_config.json").write_text(json.dumps(config | {"padding_side": "left"}))
    found = inspect(base, base, patch, Recipe(tokenizer="patch"))
    assert findings(found)["tokenizer.differs"] == ("warn", ["tokenizer_config.json"])
    (message,) = (f.message for f in found.findings if f.code == "tokenizer.differs")
    assert "carries the patch's" in message


def test_a_tokenizer_that_the_release_has_not_is_a_difference(shelf: Shelf, tmp_path: Path) -> None:
    base = shelf.base("llama")
    found = findings(inspect(base, base, make_patch(base, tmp_path / "patch", tokenizer=True)))
    assert found["tokenizer.differs"] == ("warn", ["tokenizer.json", "tokenizer_config.json"])
    assert found["chat_template.differs"] == ("warn", ["chat_template.jinja"])


def test_what_changed_between_two_releases(tmp_path: Path) -> None:
    old = make_base(tmp_path / "old", tokenizer=True)
    new = make_base(tmp_path / "new", tokenizer=True, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    make_tokenizer(new, chat_template=None)
    (new / "chat_template.jinja").unlink(missing_ok=True)
    found = inspect(old, new, make_patch(old, tmp_path / "patch"))
    data = {f.code: f.data for f in found.findings}
    assert data["tokenizer.changed"]["files"] == ["chat_template.jinja"]
    assert data["config.changed"]["settings"].keys() == {"rope_parameters"}
    before, after = data["config.changed"]["settings"]["rope_parameters"]
    assert (before["rope_theta"], after["rope_theta"]) == (10000.0, 5e5)
    assert found.portable
    assert json.loads(json.dumps(found.to_dict()))["tensors_changed"] == 14


def test_a_misfit_is_a_finding_not_an_error(shelf: Shelf) -> None:
    """`inspect` answers no with its reasons, where `merge` refuses."""
    base, other = shelf.base("llama"), shelf.base("llama", hidden_size=72)
    found = inspect(base, other, shelf.patch(base))
    assert not found.portable
    assert (found.findings[0].code, found.findings[0].severity) == ("port.shape", "refuse")
    assert found.fidelity is None
    assert "config.changed" in findings(found)
