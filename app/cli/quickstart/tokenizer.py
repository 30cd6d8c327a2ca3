"""A small byte-level BPE tokenizer, trained on the corpus and saved as transformers saves its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from app.cli.quickstart.corpus import Corpus
from app.cli.quickstart.scale import Scale

ANSWER_MARKER = "\n### answer:"
"""What follows a question, in the chat template and in the labelling task alike."""

_END = "<|end|>"
_PAD = "<|pad|>"
_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}{{ ' ' + message['content'] + eos_token }}"
    "{%- else -%}{{ message['content'] + '\\n### answer:' }}{%- endif -%}"
    "{%- endfor -%}"
)


def train_tokenizer(corpus: Corpus, scale: Scale) -> PreTrainedTokenizerFast:
    """Train a tokenizer on the training text; held-out text is not seen.

    Args:
        corpus: its `train` documents are used.
        scale: uses `vocab_size`.

    Returns:
        A tokenizer of exactly `vocab_size` entries that encodes any text, adds nothing around it, and ends answers
        with its end-of-sequence token; its chat template writes a question as the labelling task does.
    """
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=scale.vocab_size,
        special_tokens=[_END, _PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((document.text for document in corpus.train), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=_END,
        pad_token=_PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=2 * scale.window,
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def token_streams(corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> Mapping[str, torch.Tensor]:
    """Encode the training text, one stream per kind.

    Args:
        corpus: its `train` documents are used.
        tokenizer: as returned by `train_tokenizer`.

    Returns:
        Kind -> token ids, shape (tokens,), int64: the documents of the kind, each followed by the end token.
    """
    streams: dict[str, torch.Tensor] = {}
    for kind in corpus.kinds:
        texts = [document.text for document in corpus.train if document.kind == kind]
        encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        ids = [token for document in encoded for token in [*document, tokenizer.eos_token_id]]
        streams[kind] = torch.tensor(ids, dtype=torch.long)
    return streams
