"""What a layout is: one method that writes a shard's share, and one that joins the shares."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from operators.base import Settings
from pipelines.counted import counted
from pipelines.exports.samples import Sample
from pipelines.exports.tally import Tally
from pipelines.shard_format import Region, Text


class ExportSettings(Settings):
    """What a user may choose; part of the marker that tells whether a begun export can go on.

    language   which texts and regions to take, where a layout holds one language per record
    pictures   write the pictures too; without them a layout holds addresses and annotations only
    title      of the data set
    """

    language: Literal["en", "zh", "both"] = "both"
    pictures: bool = True
    title: str = ""

    @property
    def languages(self) -> tuple[str, ...]:
        return ("en", "zh") if self.language == "both" else (self.language,)


@dataclass(frozen=True)
class Shard:
    """One shard and its place among all of them."""

    path: Path
    index: int

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True)
class Missing:
    """What a run that is not through would still add: shards, of how many, and at most so many samples."""

    shards: int = 0
    of: int = 0
    samples: int = 0

    def __str__(self) -> str:
        shards, samples = f"{self.shards:,} of {counted(self.of, 'shard')}", counted(self.samples, "sample")
        return f"{shards}, at most {samples}, are not there: the run was not through"


@dataclass(frozen=True)
class About:
    """What is known beside the records: texts of the recipe and its source manifests, and what the publisher adds.

    process   stage, what it ran, samples after it, its commonest refusals; in order
    quality   section, figure, value, and how many cases and which interval it rests on
    contact   to whom a person writes who wants something taken down
    """

    title: str
    description: str
    sources: dict[str, str]  # name → `about` of its manifest
    version: str
    process: tuple[tuple[str, str, int, str], ...] = ()
    quality: tuple[tuple[str, str, str, str], ...] = ()
    contact: str = ""
    missing: Missing = Missing()


class Layout:
    """Layouts hold no state between shards: an export that was killed goes on with another process."""

    name: ClassVar[str]
    about: ClassVar[str]
    """One line for the command's help."""
    languages: ClassVar[tuple[str, ...]] = ("both",)
    """What the setting `language` may be: "both" is what the layout holds anyway."""
    tags: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: ExportSettings) -> None:
        self.settings = settings

    def part(self, shard: Shard, samples: Iterable[Sample], folder: Path, pieces: Path, tally: Tally) -> dict[str, Any]:
        """Write the files of one shard below `folder`, and what must be joined below `pieces`; names come from the shard, so that
        a second try writes over the first. Calls `tally.add` with what is exported of each sample. Returns what `finish` needs, as
        plain JSON."""
        raise NotImplementedError

    def finish(self, shards: list[Shard], records: list[dict[str, Any]], folder: Path, pieces: Path, tally: Tally) -> None:
        """Join the pieces. May be begun a second time after a kill."""


def emptied(folder: Path) -> Path:
    """A folder of pictures, without those that a killed try left there: samples of them may have been taken down since."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def text_of(sample: Sample, language: str, length: str) -> Text | None:
    """The first text of a language and length: a made one before the source's own."""
    found = [text for text in sample.record.texts if text.language == language and text.length == length]
    found.sort(key=lambda text: text.origin == "source")
    return found[0] if found else None


def one_line(text: str) -> str:
    """Without tabs and line ends, which would break a line-based file."""
    return " ".join(text.split())


def regions_of(sample: Sample, language: str) -> list[Region]:
    return [region for region in sample.record.regions if region.language == language]
