"""Texts as numbers: words and their vocabulary, rows of word numbers, their parts and batches, and word vectors.

A text is a row (T,) of word numbers, with 0 behind its end. Its fields, such as title and body, stand one after another
with SPLIT between them. The vocabulary is that of the training split only.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from itertools import chain
from pathlib import Path

import torch
from torch import Generator, Tensor

from kit.data.text_files import Texts
from kit.data.views import View

SPECIAL = ("", "?", "|")
"""The first words of each vocabulary: the padding, 0, any word that it does not have, and the end of a field."""
UNKNOWN, SPLIT = 1, 2


@cache
def _analyzer():
    from sklearn.feature_extraction.text import CountVectorizer  # takes a second

    return CountVectorizer(token_pattern=r"(?u)\b\w+\b").build_analyzer()


def words_of(text: str) -> list[str]:
    """Return the words of a text as scikit-learn's vectorizers take them, in lower case, one letter enough."""
    return _analyzer()(text)


def vocabulary(texts: Texts, size: int) -> tuple[str, ...]:
    """Return SPECIAL and the `size` most frequent words of the texts; of equally frequent ones the first by name."""
    counts = Counter(chain.from_iterable(map(words_of, chain.from_iterable(texts.fields.values()))))
    return *SPECIAL, *sorted(counts, key=lambda word: (-counts[word], word))[:size]


def encode(texts: Texts, words: Sequence[str], max_tokens: int) -> Tensor:
    """Return the texts as rows of numbers of `words`, int32 (N, T), T at most `max_tokens`: what is longer is cut.

    A text without any word counts as one unknown word.
    """
    number, rows = {word: k for k, word in enumerate(words)}, []
    for fields in zip(*texts.fields.values(), strict=True):
        row: list[int] = []
        for k, field in enumerate(fields):
            row += [*[SPLIT] * (k > 0), *(number.get(word, UNKNOWN) for word in words_of(field))]
        rows.append(torch.tensor(row[:max_tokens] or [UNKNOWN], dtype=torch.int32))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def warn_of_unreadable(tokens: Tensor, where: str) -> None:
    """Say how many texts, of those encoded as `tokens`, hold no word that the vocabulary has."""
    if count := int((tokens <= SPLIT).all(1).sum()):
        warnings.warn(f"{where}: {count} of {len(tokens)} texts hold no word of the vocabulary", stacklevel=5)


def whole(tokens: Tensor) -> Tensor:
    """Return the rows (B, T) without the padding that all of them end in; one that is empty gets an unknown word."""
    tokens = tokens[:, : max(1, int((tokens != 0).sum(1).max()))]
    return torch.cat([tokens[:, :1].clamp(min=UNKNOWN), tokens[:, 1:]], 1)


def beginning(tokens: Tensor, count: int) -> Tensor:
    """Return the first `count` words of each text."""
    return whole(tokens[:, :count])


def rest(tokens: Tensor, count: int) -> Tensor:
    """Return all but the first `count` words of each text."""
    return whole(tokens[:, count:] if count < tokens.shape[1] else torch.zeros_like(tokens[:, :1]))


def field(tokens: Tensor, number: int) -> Tensor:
    """Return one field of each text, counted from 0."""
    own = ((tokens == SPLIT).cumsum(1) == number) & (tokens > 0) & (tokens != SPLIT)
    return whole((tokens * own).take_along_dim((~own).byte().argsort(dim=1, stable=True), 1))


def text_views(fields: Sequence[str], asked: Iterable[str]) -> Mapping[str, View]:
    """Return the views of texts by name: the whole, each field, and of those `asked` for `firstN` and `afterN`."""
    views: dict[str, View] = {"image": whole, "whole": whole, "first32": partial(beginning, count=32)}
    views |= {"after32": partial(rest, count=32), **{name: partial(field, number=k) for k, name in enumerate(fields)}}
    for name in asked:
        if found := re.fullmatch(r"(first|after)([1-9]\d{0,5})", name):
            views[name] = partial(beginning if found[1] == "first" else rest, count=int(found[2]))
    return views


def bucketed(order: Tensor, tokens: Tensor, batch_size: int, draw: Generator, pool: int = 50) -> Tensor:
    """Return the rows `order` (N,) arranged so that batches are of texts of similar length, and less is padding.

    Of each `pool` batches in order the texts are sorted by length; then the batches, but for a last that is not full,
    come in an order drawn from `draw`.
    """
    lengths = (tokens != 0).sum(1).cpu()
    parts = [rows[lengths[rows].argsort(stable=True)] for rows in order.split(pool * batch_size)]
    batches = torch.cat(parts).split(batch_size)
    full = len(order) // batch_size
    return torch.cat([*(batches[k] for k in torch.randperm(full, generator=draw)), *batches[full:]])


def word_vectors(file: Path, words: Sequence[str], draw: Generator) -> Tensor:
    """Return a vector for each word, float32 (V, D), from a text file of lines `word number …`, as GloVe's are.

    Words that the file does not have get small random numbers, the padding zeros. Raises FileNotFoundError, and
    ValueError naming the line that has another width than the first or no numbers.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not a file: vectors= takes a text file such as glove.6B.300d.txt")
    number, found, width = {word: k for k, word in enumerate(words)}, {}, None
    with file.open(encoding="utf-8", errors="replace") as lines:
        for k, line in enumerate(lines, 1):
            word, *values = line.rstrip().split(" ")
            width = width or len(values)
            if len(values) != width or not width:
                raise ValueError(f"{file}, line {k}: {len(values)} numbers behind the word, but line 1 has {width}")
            if word in number:
                try:
                    found[number[word]] = torch.tensor([*map(float, values)])
                except ValueError:
                    raise ValueError(f"{file}, line {k}: {line[:40].rstrip()!r}… is not a word and numbers") from None
    if not found:
        raise ValueError(f"{file} has none of the {len(words)} words of the vocabulary: is it of this language?")
    vectors = 0.1 * torch.randn(len(words), width, generator=draw)
    vectors[[*found]] = torch.stack([*found.values()])
    vectors[0] = 0
    return vectors
