"""What an evaluation is told: the sets, where they lie, and every choice in which protocols differ. `suites/` holds named choices.

The defaults are this project's own; the comments name what the released evaluation scripts do where it is something else.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from fgclip2_train.data import images
from fgclip2_train.strict import Strict, Threads

Patches = images.Patches | Literal["official"]


class PictureSettings(Strict):
    """How a set's pictures become patches. Sets that agree in these share the encoded pictures."""

    patches: Patches | None = None
    """Per picture; "official" for each picture's own bucket; null takes the evaluation's. Released: own bucket, 1024 for ImageNet."""
    upright: bool = True
    """Turn pictures as their EXIF says. Released: no, as boxes of COCO and LVIS are drawn on unturned pictures."""
    small: Literal["square", "as_is"] = "square"
    """A picture with a side below 128 becomes a square of 512, as in training. Released: only in training."""
    limit: int | None = Field(default=None, ge=1)
    """Use the first pictures of the set only. Released: 1000 for ShareGPT4V."""


class RetrievalSettings(PictureSettings):
    lower: bool = True
    """Lower-case the texts, as in training. Released: not for LIT-CN, DCI-CN, DOCCI-CN and Flickr-CNA."""
    rank_by: Literal["cosine", "sigmoid"] = "cosine"
    """Released: the sigmoid of scaled cosines, which makes the best ones equal in float32; the last of equals wins."""


class CaptionsSet(RetrievalSettings):
    """Pictures and texts that find each other. The layout is seen from the file; docs/evaluation.md lists the known ones."""

    kind: Literal["captions"] = "captions"
    file: str
    pictures: str | None = None
    """Folder that the file's names are relative to; by default the file's own."""
    length: Literal["short", "long"] = "short"
    language: Literal["en", "zh"] = "en"
    split: str = "test"
    """Of layouts that hold several."""
    captions_per_picture: int | None = Field(default=None, ge=1)
    """Use the first ones only. Released: 5 for COCO and COCO-CN."""
    same_text: Literal["right", "wrong"] = "right"
    """Whether any picture with the same text is a right answer. Released: only the text's own picture."""


class MugeSet(RetrievalSettings):
    """Queries find pictures: JSON lines of queries, and a TSV of id and base64 picture."""

    kind: Literal["muge"] = "muge"
    file: str
    pictures: str


class RegionSettings(PictureSettings):
    lower: bool = True
    """Released: BoxClass-CN's names keep their case."""
    regions: Literal["dense", "crop"] = "dense"
    """Pool boxes from the dense map, or encode each box cut out as a picture: what the released scripts do for SigLIP 2."""
    walk: Literal["box", "short"] = "box"
    """The text walk; "short" belongs to `regions: crop`."""


class BoxesSet(RegionSettings):
    """Boxes and their categories, as COCO's instances, LVIS and BoxClass-CN write them."""

    kind: Literal["boxes"] = "boxes"
    file: str
    pictures: str | None = None
    templates: list[str] | str | None = None
    """Prompts with {} for the name: a list, a file of lines, or "openai80"; null takes bare names, as the released script does for
    BoxClass-CN; openai80 elsewhere."""
    crowd: Literal["keep", "skip"] = "skip"
    """Boxes around crowds (`iscrowd`). Released: kept."""
    empty: Literal["skip", "count"] = "skip"
    """Boxes without area or wholly outside. Released: they count, with a zero vector, which picks the first category."""
    category: Literal["id", "position"] = "id"
    """Find a box's category by its id, or take category_id − 1 as a position in the list. Released: position for BoxClass-CN."""


class FgovdSet(RegionSettings):
    """A positive and its hard negatives per box, as JSON lines."""

    kind: Literal["fgovd"] = "fgovd"
    file: str
    pictures: str | None = None
    ties: Literal["hit", "miss"] = "miss"
    """Whether a positive that only equals the best negative counts. Released: it does."""


class ClassesSet(PictureSettings):
    """A folder of class folders, as ImageNet's validation set."""

    kind: Literal["classes"] = "classes"
    pictures: str
    classes: str | None = None
    """Names: a file (JSON list or object, or lines), or "imagenet"; null takes the folders' names."""
    templates: list[str] | str | None = None
    lower: bool = True
    drop_last: int | None = Field(default=None, ge=1)
    """Leave out what a last, smaller batch of this size would hold. Released: 128 for ImageNet, so its last 80 pictures."""


class ShardsSet(PictureSettings):
    """This project's shards: retrieval, boxes among phrases, positives among negatives, all per language."""

    kind: Literal["shards"] = "shards"
    shards: str | list[str]


AnySet = Annotated[
    CaptionsSet | MugeSet | BoxesSet | FgovdSet | ClassesSet | ShardsSet,
    Field(discriminator="kind"),
]
KINDS: dict[str, type[PictureSettings]] = {
    "captions": CaptionsSet,
    "muge": MugeSet,
    "boxes": BoxesSet,
    "fgovd": FgovdSet,
    "classes": ClassesSet,
    "shards": ShardsSet,
}


class Choices(Strict):
    """What holds for all sets of an evaluation."""

    protocol: str = "own"
    """A name for the choices, recorded with the result."""
    root: str = "."
    """Folder that the sets' paths are relative to."""
    only: list[str] | None = None
    """Names of the sets to use; null for all."""
    absent: Literal["error", "skip"] = "error"
    """What to do with a set whose files are not there."""
    patches: Patches | None = None
    """Per picture, for sets without a choice of their own; null takes what the checkpoint was trained with."""
    batch: int = Field(default=64, ge=1)
    workers: Threads = 4
    """Threads that read and cut pictures."""
    precision: Literal["fp32", "bf16"] = "fp32"


class EvaluationSettings(Choices):
    sets: dict[str, AnySet] = Field(default={})
    device: Literal["auto", "cpu", "cuda"] = "auto"


class DuringTraining(Choices):
    """Evaluation on its own period while training; the best checkpoint so far is kept beside the last ones."""

    every: int = Field(ge=1)
    """Steps."""
    suite: str | None = None
    """A suite that everything here is laid over."""
    sets: dict[str, dict[str, Any]] = Field(default={})
    """As in an evaluation's settings, or changes of the suite's."""
    defaults: dict[str, dict[str, Any]] = Field(default={})
    """Laid under every set of a kind, or of "all"."""
    shards: str | list[str] | None = None
    """Short for a set named "shards"."""
    limit: int | None = Field(default=None, ge=1)
    """Samples of `shards` to use."""
    at_start: bool = False
    """Also before the first step."""
    best: str = "score"
    """What the best checkpoint is best in: a number's dotted name, or "score", the mean over the sets' headline numbers."""
