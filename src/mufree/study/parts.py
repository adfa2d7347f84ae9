"""What a task is made of: the settings of data sets and of models, and what a model costs."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from mufree.study.fields import Closed, Int, Layers, NonNegative, Positive

Split = Literal["train", "valid", "test"]
Kind = Literal["image", "text"]


class Images(Closed):
    """A data set of 32×32 RGB images, with ten classes."""

    kind: ClassVar[Kind] = "image"
    vocabulary: ClassVar[int] = 0
    """Tokens that it is made of; none."""


class Text(Closed):
    """A data set of text, split into the tokens of a vocabulary."""

    kind: ClassVar[Kind] = "text"
    vocab_size: Annotated[Int, Field(ge=257, le=65536)] = 512
    """Size of the byte-level BPE vocabulary, trained on the training split."""

    @property
    def vocabulary(self) -> int:
        """Tokens that it is made of."""
        return self.vocab_size


class Cifar10(Images):
    """CIFAR-10 (Krizhevsky 2009): torchvision's download, or a staged `cifar10.npz`."""

    name: Literal["cifar10"]
    valid_examples: Positive = 5000
    """Training images held out for validation, the same ones in every run."""


class WikiText2(Text):
    """WikiText-2 (Merity et al. 2016): the published data set, or staged `wikitext-2/{train,valid,test}.txt`."""

    name: Literal["wikitext2"]
    train_split: Split = "train"
    """The published split that trains the tokenizer and the model."""
    valid_split: Split = "valid"
    """The published split that selects."""
    test_split: Split | None = "test"
    """The published split that is reported once; null where it has to train."""

    @model_validator(mode="after")
    def _splits_are_disjoint(self) -> Self:
        used = [split for split in (self.train_split, self.valid_split, self.test_split) if split is not None]
        if len(set(used)) != len(used):
            raise ValueError(f"train_split, valid_split and test_split must differ, got {', '.join(used)}")
        return self


class PhotoPatches(Images):
    """Ten pictures that scikit-image ships; the task is to tell from which one a 32×32 patch comes. Works offline."""

    name: Literal["photo_patches"]
    train_examples: Positive = 16384
    """Patches drawn from the training regions."""
    valid_examples: Positive = 2048
    """Patches drawn from the validation regions."""
    test_examples: Positive = 2048
    """Patches drawn from the test regions."""
    seed: NonNegative = 0
    """Seed of positions, scales, flips and jitter; it belongs to the data and not to a run."""


class WikiSample(Text):
    """The extract of the English Wikipedia that gensim ships, split by article. Works offline."""

    name: Literal["wiki_sample"]
    articles: Annotated[Int, Field(ge=10)] | None = None
    """Take only the first so many articles; all of them (104) if null."""


class PythonSource(Text):
    """The Python files of the locked packages in the running environment, split by package. Works offline."""

    name: Literal["python_source"]
    train_bytes: Positive | None = None
    """Take only so many bytes of the training text, of all packages alike; all of them if null."""
    valid_bytes: Positive | None = None
    """Likewise of the validation text."""


Dataset = Annotated[Cifar10 | WikiText2 | PhotoPatches | WikiSample | PythonSource, Field(discriminator="name")]


class Network(Closed):
    """What plans ask of a model: what it learns from and what it costs, at a width and with so many tokens in its vocabulary.

    Numbers are counted for one example. They decide how runs are ordered and what jobs ask for, and may be rough.
    """

    batchnorm: ClassVar[bool] = False
    """Whether it has BatchNorm, whose statistics are computed anew before an evaluation at an average."""

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """What it learns from."""

    @property
    def context(self) -> int | None:
        """Tokens that an example has; None for images."""
        return None

    @abstractmethod
    def products(self, width: int) -> int:
        """Multiplications of a forward pass: one for each weight and position it is applied at, and those of attention."""

    @abstractmethod
    def parameters(self, width: int, vocabulary: int) -> int:
        """Weights of matrices, convolutions and look-up tables; biases and norms, which grow with width alone, are left out."""

    @abstractmethod
    def kept(self, width: int, vocabulary: int) -> int:
        """Numbers that are kept for the backward pass."""

    @abstractmethod
    def held(self, width: int, vocabulary: int) -> int:
        """Numbers that are there at once where no backward pass follows."""


class Transformer(Network):
    """What a GPT and a ViT share."""

    depth: Layers = 3
    """Transformer blocks."""
    head_dim: Positive = 16
    """Size of an attention head, fixed while the number of heads grows with width."""
    ffn_ratio: Positive = 4
    """Hidden units of the feed-forward layer for each unit of width."""

    @property
    @abstractmethod
    def positions(self) -> int:
        """Positions that an example has."""

    @abstractmethod
    def tables(self, vocabulary: int) -> int:
        """Rows, each as long as the width is, of look-up tables, embedding and readout."""

    def products(self, width: int) -> int:
        weights = self.depth * (4 + 2 * self.ffn_ratio) * width**2
        return self.positions * (weights + 2 * self.depth * self.positions * width)

    def parameters(self, width: int, vocabulary: int) -> int:
        return self.tables(vocabulary) * width + self.depth * (4 + 2 * self.ffn_ratio) * width**2

    def kept(self, width: int, vocabulary: int) -> int:
        # Norms, query, key, value, attention's result and residuals; feed-forward before and after GELU; scores before and
        # after softmax, where no fused kernel does without them.
        block = (10 + 2 * self.ffn_ratio) * width + 2 * self.positions * width // self.head_dim
        return self.positions * (self.depth * block + 4 * vocabulary)

    def held(self, width: int, vocabulary: int) -> int:
        block = (3 + 2 * self.ffn_ratio) * width + 2 * self.positions * width // self.head_dim
        return self.positions * max(block, 3 * vocabulary)


class MLP(Network):
    """A multi-layer perceptron on flattened pixels; its width is the number of hidden units."""

    kind: ClassVar[Kind] = "image"
    name: Literal["mlp"]
    depth: Layers = 2
    """Hidden layers."""

    def products(self, width: int) -> int:
        return 3072 * width + (self.depth - 1) * width**2

    def parameters(self, width: int, vocabulary: int) -> int:
        return self.products(width)

    def kept(self, width: int, vocabulary: int) -> int:
        return 3072 + 3 * self.depth * width

    def held(self, width: int, vocabulary: int) -> int:
        return 3072 + 2 * width


class ResNet(Network):
    """A pre-activation-free ResNet with BatchNorm for 32×32 images; its width is the channels of the first stage."""

    kind: ClassVar[Kind] = "image"
    batchnorm: ClassVar[bool] = True
    name: Literal["resnet"]
    blocks_per_stage: Layers = 1
    """Residual blocks in each of the three stages."""

    def products(self, width: int) -> int:
        # In each stage: 2 convolutions a block of 3×3, at 32², 16², 8² positions and w, 2w, 4w channels.
        return 1024 * 27 * width + 3 * 1024 * 2 * 9 * width**2 * self.blocks_per_stage

    def parameters(self, width: int, vocabulary: int) -> int:
        # Two convolutions a block between w, 2w and 4w channels; shortcuts and the first block of a stage count as full.
        return 27 * width + 2 * 9 * self.blocks_per_stage * (1 + 4 + 16) * width**2

    def kept(self, width: int, vocabulary: int) -> int:
        # Of each convolution its result and the norm's; half of the numbers in the next stage: a quarter of the positions,
        # twice the channels.
        return 1024 * width * 2 + (1024 + 512 + 256) * width * 6 * self.blocks_per_stage

    def held(self, width: int, vocabulary: int) -> int:
        return 4 * 1024 * width


class ViT(Transformer):
    """A vision transformer; its width is the embedding size."""

    kind: ClassVar[Kind] = "image"
    name: Literal["vit"]
    patch_size: Literal[2, 4, 8] = 4
    """Pixels on a side of a patch."""

    @property
    def positions(self) -> int:
        return (32 // self.patch_size) ** 2

    def tables(self, vocabulary: int) -> int:
        return self.positions + 3 * self.patch_size**2


class GPT(Transformer):
    """A pre-norm decoder-only transformer with learned positions and an untied readout; width is the embedding size."""

    kind: ClassVar[Kind] = "text"
    name: Literal["gpt"]
    context_length: Positive = 64
    """Tokens a training example has."""

    @property
    def context(self) -> int:
        return self.context_length

    @property
    def positions(self) -> int:
        return self.context_length

    def tables(self, vocabulary: int) -> int:
        return self.positions + 2 * vocabulary


Model = Annotated[MLP | ResNet | ViT | GPT, Field(discriminator="name")]
