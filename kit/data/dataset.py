"""A dataset in three splits, and the batches it gives."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kit.data.augment import recipe
from kit.data.image_files import FILE_AUGMENTATIONS, ImageFiles
from kit.data.own import checked_pair, set_aside
from kit.data.splits import DataSettings, Split, prepared
from kit.data.stratified import few_classes
from kit.data.text_files import Texts
from kit.data.tokens import bucketed, encode
from kit.data.views import VIEWS, View
from kit.devices import available
from kit.errors import check_name
from kit.seeds import generator
from kit.settings import accept, typed


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """A named dataset: three splits, what is known of its images, and batches of them."""

    name: str
    train: Split
    val: Split
    """Cut from the training images, labels clean unless noise was asked for: choose the best epoch or block on it,
    never on `test`."""
    test: Split
    shape: tuple[int, ...]
    """(C, H, W) of the network's input, or (F,)."""
    classes: tuple[str, ...]
    mean: Tensor
    """float32 (C,), of the training images' channels, in units of [0, 1]."""
    std: Tensor
    """float32 (C,), likewise; 1 for a constant channel."""
    augmentation: str = "none"
    """The recipe `batches` uses in training when none is named."""
    num_workers: int = 0
    """Processes that decode images of a lazy set (imagenet); not used by sets in memory."""
    input_view: str = "image"
    """The view, of VIEWS, that the network's input shows."""
    views: Mapping[str, View] = field(default_factory=dict)
    """Further views of the same samples, by name."""
    view_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Their shapes, without the batch."""
    known_views: Mapping[str, View] = field(default_factory=lambda: VIEWS)
    """The views that there are: those of `kit.data.VIEWS`, and of a table the groups of its columns."""
    origin: dict | None = None
    """What `load` read, as JSON values: its settings and the `fingerprint`. None for data of one's own."""
    words: tuple[str, ...] = ()
    """Of texts, the word of each number: see `kit.data.tokens`."""
    vectors: Tensor | None = None
    """float32 (V, D), a vector for each word, to begin with; None where nobody gave any."""

    @classmethod
    def of(
        cls, train: tuple, test: tuple | None = None, val: tuple | None = None, *, classes: Sequence[str] | None = None,
        name: str = "own", **others: object,
    ) -> "Data":  # fmt: skip
        """Return tensors or arrays as a dataset: pairs (x, y), x images uint8 (N, C, H, W) or rows (N, F), y (N,).

        Without `test` a fixed fifth of `train` is it, without `val` the share `val_fraction`. `others` are settings of
        `DataSettings`, such as `limit` and `noise`. Raises ValueError for pairs and settings that cannot be.
        """
        settings = DataSettings(**accept("setting", others, DataSettings))
        given = {"train": train, "test": test, "val": val}
        pairs = {what: checked_pair(part, what) for what, part in given.items() if part is not None}
        shapes = {what: tuple(x.shape[1:]) for what, (x, _) in pairs.items()}
        if len({*shapes.values()}) > 1:
            raise ValueError(f"samples differ in shape between the splits: {shapes}")
        names = range(1 + max(int(y.max()) for _, y in pairs.values())) if classes is None else classes
        train, test = (pairs["train"], pairs["test"]) if test is not None else set_aside(*pairs["train"])
        known = prepared(name, train, test, pairs.get("val"), tuple(map(str, names)), settings)
        return cls(**known).with_views(*settings.views or ())

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def dtype(self) -> torch.dtype:
        """Of what a net reads: numbers, or numbers of words."""
        return torch.int64 if self.words else torch.get_default_dtype()

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return texts as a batch (B, T) for the net: word numbers, cut as those of the dataset are."""
        if not self.words:
            raise ValueError(f"{self.name} has no words: only data of texts encode texts")
        return encode(Texts({"text": [*texts]}), self.words, self.shape[0]).long()

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(split)} {name}" for name, split in self.splits.items())
        shape = "x".join(map(str, self.shape))
        return f"Data({self.name}: {sizes}; {shape}, {self.num_classes} classes, augmentation {self.augmentation!r})"

    def with_views(self, input_view: str = "image", *further: str, **own: View) -> "Data":
        """Return the dataset with one view as the network's input, which `shape` then tells, and further ones.

        Names are those of `kit.data.VIEWS`; `own` are views of your own, functions (B, …) -> (B, …) of the augmented
        and normalised batch. With views beside the input, `batches` gives them all by name, the input as `x`.
        Raises ValueError for a name that does not exist, and for a dataset that is seen as something else already.
        """
        for name in (input_view, *further):
            check_name("view", name, self.known_views)
        if self.input_view != "image":
            raise ValueError(f"{self.name} is seen in part already; start from the whole, as load_data gives it")
        views = {name: self.known_views[name] for name in further} | own
        shapes = {name: self._shape_of(name, view) for name, view in views.items()}
        shape = self._shape_of(input_view, self.known_views[input_view])
        return replace(self, shape=shape, input_view=input_view, views=views, view_shapes=shapes)

    def _shape_of(self, name: str, view: View) -> tuple[int, ...]:
        batch = torch.ones(2, *self.shape, dtype=self.dtype)
        try:
            shape = tuple(view(batch).shape)
        except Exception as error:  # of a function of the user's own, whatever it raises
            raise ValueError(f"view {name!r} cannot be made of samples of shape {self.shape}: {error}") from error
        if shape[:1] != (2,) or name == "x":
            raise ValueError(f"view {name!r} has to give (B, …) of (B, …), not {shape} of (2, …), and x is the input")
        return shape[1:]

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that other data do not have, whatever their name, folder and device.

        They tell all labels, the number and form of the images and 64 of them in each split (of files: names and
        lengths), the classes, mean and std, the views' names and shapes, and the augmentation. Takes milliseconds.
        """
        views = self.input_view, [(name, tuple(shape)) for name, shape in self.view_shapes.items()]
        known = self.mean.tolist(), self.std.tolist(), self.augmentation, views, *([self.words] if self.words else [])
        digest = hashlib.blake2b(repr((tuple(self.shape), tuple(self.classes), *known)).encode(), digest_size=8)
        for split in self.splits.values():
            rows = torch.arange(0, len(split), max(1, math.ceil(len(split) / 64)))
            sample, tensors = split.images[rows], [split.labels, split.clean_labels]
            if isinstance(sample, ImageFiles):
                known = sample.size, [(*path.parts[-2:], path.stat().st_size) for path in sample.paths]
            else:
                known, tensors = (tuple(sample.shape), sample.dtype), [*tensors, sample]
            digest.update(repr((len(split), *known)).encode())
            for tensor in tensors:
                digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def realised_noise(self) -> dict[str, float]:
        """Return the share of labels that noise really changed, in [0, 1], by split; of splits with noise only."""
        noisy = {name: split.noisy for name, split in self.splits.items() if split.noisy is not None}
        return {name: mask.double().mean().item() for name, mask in noisy.items()}

    def to(self, device: torch.device | str) -> "Data":
        """Return the dataset with the tensors of its splits on `device`; images that are not in memory stay files."""
        return replace(self, **{name: split.to(device) for name, split in self.splits.items()})

    def num_batches(self, split: str | Split, batch_size: int, *, training: bool | None = None) -> int:
        """Return how many batches `batches` gives: in training one less if the last would hold a single sample.

        `training=None` means training for the "train" split and evaluation for any other.
        """
        split = self._split(split)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}, but a batch holds at least 1 sample")
        full, rest = divmod(len(split), batch_size)
        training = split is self.train if training is None else training
        return full + (rest > 1 or (rest == 1 and not training))

    @typed
    def batches(
        self, split: str | Split, batch_size: int, *, epoch: int | None = None, start: int = 0, seed: int = 0,
        augment: str | None = None, classes_per_batch: int | None = None, device: torch.device | str = "cpu",
        channels_last: bool = False,
    ) -> Iterator[tuple[Tensor | dict[str, Tensor], Tensor]]:  # fmt: skip
        """Iterate over (x, y): x float32 (B, C, H, W), normalised by `mean` and `std`; y int64 (B,); both on `device`.

        Of texts x are word numbers, int64 (B, T), T being the length of the longest; in training the texts of a batch
        are of similar length (`kit.data.tokens.bucketed`).

        Where the dataset carries further `views`, x is a dict of them all by name, the network's input being `x`.
        `split` is "train", "val", "test" or a Split. `epoch=None` evaluates: every sample once, in order, as it is.
        `epoch=k` trains: order drawn from (seed, k), batch i augmented by the recipe `augment` (None: the dataset's
        `augmentation`) as drawn from (seed, k, i); so `start=i` gives bit for bit the batches i, i + 1, ... of the
        whole epoch. A last batch of one sample is then dropped, since batch statistics need two (but not if
        `batch_size=1`); any other partial batch is kept. Most batches are of `classes_per_batch` classes, if given.

        Raises ValueError for an unknown split or recipe, a recipe without an epoch, batch_size < 1, epoch < 0, or a
        `start` outside 0..num_batches.
        """
        split, training, device = self._split(split), epoch is not None, available(device)
        count = self.num_batches(split, batch_size, training=training)
        if training and epoch < 0:
            raise ValueError(f"epoch={epoch}, but epochs count from 0; epoch=None evaluates")
        if not 0 <= start <= count:
            raise ValueError(f"start={start}, but this epoch has {count} batches; choose 0 to {count}")
        if not training and augment not in (None, "none"):
            raise ValueError(f"augment={augment!r} without an epoch would change nothing; give an epoch to train")
        name = (self.augmentation if augment is None else augment) if training else "none"
        draw = generator(seed, "order", epoch)
        order = torch.randperm(len(split), generator=draw) if training else torch.arange(len(split))
        if training and classes_per_batch is not None:
            order = few_classes(order, split.labels.cpu(), batch_size, classes_per_batch)
        elif training and self.words:
            order = bucketed(order, split.images, batch_size, draw)
        index, images, seeds = order.split(batch_size)[start:count], split.images, (seed, "augment", epoch)
        if isinstance(images, ImageFiles):  # whose workers augment, image by image
            check_name(f"augmentation of {self.name}", name, FILE_AUGMENTATIONS)
            images = replace(images, crop_seeds=seeds if name == "resized-crop" else None)
            pixels = images.stream(index, self.num_workers, pin=device.type == "cuda")
            name = "none"
        else:
            pixels = (images.index_select(0, rows.to(images.device)) for rows in index)
        # A generator for each batch, so that a run resumed in mid-epoch draws what it would have drawn.
        draws = (generator(*seeds, i) for i in range(start, count))
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return self._iterate(zip(index, pixels, draws, strict=True), split.labels, recipe(name), device, layout)

    def _iterate(self, drawn, labels, augment, device, layout):
        axes = 1, -1, *[1] * (len(self.train.images.shape) - 2)
        scale, shift = (v.view(axes).to(device) for v in (1 / self.std, -self.mean / self.std))
        for rows, pixels, draw in drawn:
            x = pixels.to(device, non_blocking=True).to(self.dtype)
            if not self.words:
                x = augment(x.div_(255) if pixels.dtype == torch.uint8 else x, draw)
                x = x.mul(scale).add_(shift).contiguous(memory_format=layout)
            y = labels[rows.to(labels.device)].to(device, non_blocking=True).repeat(len(x) // len(rows))
            seen = self.known_views[self.input_view](x)
            yield ({"x": seen, **{name: view(x) for name, view in self.views.items()}} if self.views else seen), y

    def _split(self, split: str | Split) -> Split:
        if isinstance(split, Split):
            return split
        check_name("split", split, self.splits)
        return self.splits[split]

    def denormalize(self, x: Tensor) -> Tensor:
        """Return normalised images x, (..., C, H, W), in [0, 1] again, e.g. to show them; rows in their units."""
        if len(self.train.images.shape) == 2:
            return x * self.std.to(x.device) + self.mean.to(x.device)
        mean, std = (values.to(x.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return (x * std + mean).clamp(0, 1)
