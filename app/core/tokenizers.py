"""Tokenizer files by name: which of them make a whole, and whose a merged model carries."""

from collections.abc import Collection

from app.core.errors import PortError

CHAT_TEMPLATE = "chat_template.jinja"
# The second is read by processors of older versions only, never by a tokenizer.
CHAT_TEMPLATES = frozenset({CHAT_TEMPLATE, "chat_template.json"})
SETTINGS = "tokenizer_config.json"
# Each line is a vocabulary that a tokenizer can be made of.
VOCABULARIES = tuple(
    map(
        frozenset,
        (
            {"tokenizer.json"}, {"tokenizer.model"}, {"spiece.model"}, {"sentencepiece.bpe.model"}, {"vocab.txt"},
            {"vocab.json", "merges.txt"},
        ),
    )
)  # fmt: skip
TOKENIZER_FILES = CHAT_TEMPLATES.union(*VOCABULARIES, {SETTINGS, "added_tokens.json", "special_tokens_map.json"})


def replaced_by(patch_files: Collection[str]) -> frozenset[str]:
    """The tokenizer files of a release that give way to those of a patch; all that the patch brings take their place.

    A whole tokenizer (a vocabulary and its settings) replaces a whole tokenizer, and a chat template a chat template.
    Anything between would put settings, special tokens or merges over a vocabulary that they were not made for: the model
    loads and reads other tokens than it was trained on.

    Args:
        patch_files: paths of the patch's files.

    Raises:
        PortError: recipe.no_patch_tokenizer, recipe.partial_tokenizer.
    """
    brought = TOKENIZER_FILES.intersection(patch_files)
    if not brought:
        raise PortError("recipe.no_patch_tokenizer")
    if SETTINGS in brought and any(vocabulary <= brought for vocabulary in VOCABULARIES):
        return TOKENIZER_FILES
    if CHAT_TEMPLATE in brought and brought <= CHAT_TEMPLATES:
        return CHAT_TEMPLATES
    raise PortError("recipe.partial_tokenizer", files=", ".join(sorted(brought)))
