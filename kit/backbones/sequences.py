"""The networks for texts: word embeddings, then bidirectional LSTM or Transformer encoder layers.

A layer reads activations (B, T, ·) and a mask, bool (B, T), True at real words, which come first; what stands behind
them changes nothing. Its `feature` is what a head reads: one row (B, D) for each text.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from kit.modules import Feature
from kit.settings import Count, Decay
from kit.shapes import real_mean


def last_states(h: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (B, D) of both directions' last states, each at its text's true length; `h` is (B, T, 2 · D)."""
    forwards, backwards = h.chunk(2, dim=2)
    last = (mask.sum(1) - 1).clamp(min=0)
    return (forwards[torch.arange(len(h), device=h.device), last] + backwards[:, 0]) / 2


class Words(nn.Module):
    """An embedding (B, T) -> (B, T, width), with sines of the position added where `places`, so many, are given."""

    feature = staticmethod(real_mean)

    def __init__(self, num_words: int, width: int, places: int | None, vectors: Tensor | None):
        super().__init__()
        self.table = nn.Embedding(num_words, width, padding_idx=0)
        if vectors is not None:
            if vectors.shape != self.table.weight.shape:
                given, need = tuple(vectors.shape), tuple(self.table.weight.shape)
                raise ValueError(f"vectors of shape {given} for an embedding of {need}: give backbone option hidden="
                                 f"{vectors.shape[1]}, or another file")  # fmt: skip
            self.table.weight.data.copy_(vectors)
        waves = None
        if places is not None:
            angles = torch.arange(places)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
            waves = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width]
        self.register_buffer("places", waves, persistent=False)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        h = self.table(tokens)
        return h if self.places is None else h + self.places[: h.shape[1]]


class BiLSTM(nn.Module):
    """One LSTM layer in both directions, (B, T, D) -> (B, T, 2 · hidden): the second reads each text from its end."""

    feature = staticmethod(last_states)

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.ahead, self.back = (nn.LSTM(width, hidden, batch_first=True) for _ in range(2))

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        # Two passes over what is padded: on the CPU a third faster than packed sequences, and memory can be planned.
        place, length = torch.arange(h.shape[1], device=h.device), mask.sum(1, keepdim=True)
        turned = torch.where(place < length, length - 1 - place, place)[..., None]
        with torch.autocast("cpu", enabled=False):  # without bf16 units, oneDNN has no such LSTM
            (ahead, _), (back, _) = self.ahead(h.float()), self.back(h.float().take_along_dim(turned, 1))
        return torch.cat([ahead, back.take_along_dim(turned, 1)], dim=2)


class Encoder(nn.TransformerEncoderLayer):
    """PyTorch's Transformer encoder layer, (B, T, D) -> (B, T, D), that looks at real words only."""

    feature = staticmethod(real_mean)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        hidden = ~mask
        hidden[:, 0] = False  # a text without words looks at its padding, or its attention would be 0 / 0
        return super().forward(h, src_key_padding_mask=hidden)


class Pool(nn.Module):
    """The feature of the layer before, (B, T, ·) -> (B, D)."""

    def __init__(self, of_layer: Feature):
        super().__init__()
        self.of_layer = of_layer

    def feature(self, h: Tensor, mask: Tensor) -> Tensor:
        return self.of_layer(h, mask)

    forward = feature


class TextClassifier(nn.Sequential):
    """Layers that read a mask, and a classifier: word numbers (B, T), 0 for padding, to logits (B, C)."""

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        *layers, classifier = self
        for layer in layers:
            tokens = layer(tokens, mask)
        return classifier(tokens)


def lstm(
    in_channels: int, num_classes: int, width: float, image_size: int, depth: Count = 3, hidden: Count = 300,
    vectors: Tensor | None = None,
) -> TextClassifier:  # fmt: skip
    """Build `depth` bidirectional LSTM layers on word vectors, of `width` · `hidden` units each (DeInfoReg, text)."""
    size = max(1, round(width * hidden))
    layers = [BiLSTM(size if k == 0 else 2 * size, size) for k in range(depth)]
    return _classifier(Words(in_channels, size, None, vectors), layers, size, num_classes)


def transformer(
    in_channels: int, num_classes: int, width: float, image_size: int, depth: Count = 3, hidden: Count = 300,
    heads: Count = 6, dropout: Decay = 0.1, vectors: Tensor | None = None,
) -> TextClassifier:  # fmt: skip
    """Build `depth` Transformer encoder layers of `heads` heads on word vectors of `width` · `hidden` units.

    Texts have at most `image_size` words.
    """
    if hidden % heads:
        raise ValueError(f"heads={heads} do not divide the width hidden={hidden}: choose two numbers so that they do")
    size = heads * max(1, round(width * hidden / heads))  # however narrow, of whole heads
    layers = [Encoder(size, heads, 4 * size, dropout, batch_first=True) for _ in range(depth)]
    return _classifier(Words(in_channels, size, image_size, vectors), layers, size, num_classes)


def _classifier(words: Words, layers: list, size: int, num_classes: int) -> TextClassifier:
    named = {f"layer{number}": layer for number, layer in enumerate(layers, 1)}
    last = {"pool": Pool(layers[-1].feature), "classifier": nn.Linear(size, num_classes)}
    return TextClassifier(OrderedDict(embedding=words, **named, **last))
