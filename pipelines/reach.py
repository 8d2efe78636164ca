"""How far every shard has come, found for all shards at once: stage by stage over columns, not shard by shard over objects.

Shards that went the same way (the same stages, the same columns written) form a group. For a group the record of the next stage's
fingerprint is made once, by the chain itself, with marks in the place of hashes; the shards differ only in what is put in for the
marks. So the fingerprint has one definition, and 1.6 million of them take seconds.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.durable import canonical_json
from pipelines.entry_segments import BYTES, COSTS, HEX, REACH, StageIndex, for_planning, hashes_of, table_of
from pipelines.fingerprint import digest
from pipelines.ledger import Entry
from pipelines.view import Column, View

if TYPE_CHECKING:
    from pipelines.chain import Chain
    from pipelines.config import Stage

DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
CHUNK = 10_000
"""Shards whose hashes are Python objects at a time."""
NOTHING = "0" * HEX
"""A fingerprint that nothing has."""
NOWHERE = -1
"""A number that no shard has."""
TOKEN = uuid4().hex
"""Begins every mark, so that no setting or prompt can look like one."""


@dataclass
class _Part:
    """Entries of one stage that wrote the same columns: arrays over their rows."""

    names: list[str]
    rows: np.ndarray  # number of the row in the stage's index; loose entries follow the compacted ones
    keys: np.ndarray  # uint8 [rows, 24]: fingerprint and shard
    uids: np.ndarray  # uint8 [rows, 16], a hash as its bytes
    hashes: np.ndarray  # uint8 [rows, columns, 16]
    rows_out: np.ndarray

    @property
    def fingerprints(self) -> np.ndarray:
        return self.keys[:, :BYTES]


@dataclass
class StageTable:
    """All entries of a stage as columns."""

    stage: str
    index: StageIndex
    loose: list[Entry]
    parts: list[_Part]

    def entry(self, row: int) -> Entry:
        return self.index.row(row) if row < self.index.rows else self.loose[row - self.index.rows]

    def costs(self) -> pa.Table:
        """What all entries cost, those in force or not: columns `COSTS` of segments."""
        return pa.concat_tables([*self.index.planning(COSTS), for_planning(table_of(self.loose), COSTS)])


def _keys(fingerprints: np.ndarray, shards: np.ndarray) -> np.ndarray:
    """Fingerprint [n, 16] and shard side by side, uint8 [n, 24]."""
    joined = np.empty((len(shards), BYTES + 8), np.uint8)
    joined[:, :BYTES] = fingerprints
    joined[:, BYTES:] = np.ascontiguousarray(shards, np.int64).view(np.uint8).reshape(-1, 8)
    return joined


def _as_arrow(keys: np.ndarray) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(BYTES + 8), len(keys), [None, pa.py_buffer(keys)])


def _from_hex(texts: Iterable[str]) -> np.ndarray:
    """Hashes [n, 16] of their digits."""
    return np.frombuffer(bytes.fromhex("".join(texts)), np.uint8).reshape(-1, BYTES)


def _texts(hashes: np.ndarray) -> list[bytes]:
    """Digits of hashes [n, 16]."""
    digits = np.empty((len(hashes), HEX), np.uint8)
    digits[:, ::2], digits[:, 1::2] = DIGITS[hashes >> 4], DIGITS[hashes & 15]
    return digits.view(f"S{HEX}")[:, 0].tolist()


def load_stage(chain: Chain, stage: str) -> StageTable:
    """Some rows at a time: as strings they take twice the room."""
    index, loose = chain.ledger.snapshot(stage)
    found: dict[str, list[tuple[np.ndarray, ...]]] = {}
    start = 0
    for table in itertools.chain(index.planning(REACH), [for_planning(table_of(loose), REACH)]):
        shapes = table["names"].combine_chunks().dictionary_encode()
        shapes = shapes.combine_chunks() if isinstance(shapes, pa.ChunkedArray) else shapes
        codes = shapes.indices.to_numpy(zero_copy_only=False)
        for code, names in enumerate(shapes.dictionary.to_pylist()):
            rows = np.flatnonzero(codes == code)
            mine = table if len(rows) == len(codes) else table.take(pa.array(rows))
            keys = _keys(hashes_of(mine["fingerprint"])[:, 0], mine["shard"].to_numpy())
            hashes = hashes_of(mine["hashes"], len(json.loads(names)))
            piece = (start + rows, keys, hashes_of(mine["uids"])[:, 0], hashes, mine["rows_out"].to_numpy())
            found.setdefault(names, []).append(piece)
        start += table.num_rows
    parts = [_Part(json.loads(names), *map(np.concatenate, zip(*found.pop(names), strict=True))) for names in list(found)]
    return StageTable(stage, index, loose, parts)


@dataclass
class _Group:
    """Shards that came the same way. `way`: per stage the part its entries are in, and the row of each shard in that part."""

    shards: np.ndarray
    way: dict[str, tuple[_Part, np.ndarray]] = field(default_factory=dict)

    def choose(self, which: np.ndarray) -> _Group:
        return _Group(self.shards[which], {stage: (part, rows[which]) for stage, (part, rows) in self.way.items()})


class Reach(Mapping[int, tuple[View, "Stage | None"]]):
    """shard → its view and the first stage still to do (None: all done). Views are made when they are asked for."""

    def __init__(self, chain: Chain, shards: Sequence[int]) -> None:
        self.chain = chain
        self.tables: dict[str, StageTable] = {}
        self._groups: list[tuple[_Group, Stage | None]] = [(_Group(np.asarray(shards, np.int64)), None)]
        self._found: dict[int, tuple[int, int]] | None = None

    def advance(self, stages: Sequence[Stage]) -> None:
        """Follow the entries of `stages`, for the shards that all stages before let through."""
        for stage in stages:
            onward: list[tuple[_Group, Stage | None]] = []
            for group, waits in self._groups:
                onward += [(group, waits)] if waits is not None else self._step(group, stage)
            self._groups = onward
        self._found = None

    def onward(self, stages: Sequence[Stage]) -> Reach:
        """Another one, `stages` further."""
        further = Reach(self.chain, [])
        further.tables, further._groups = self.tables, list(self._groups)
        further.advance(stages)
        return further

    def _step(self, group: _Group, stage: Stage) -> list[tuple[_Group, Stage | None]]:
        if not len(group.shards):
            return []
        if stage.kind == "global" and stage.name not in self.chain.globals:
            return [(group, stage)]
        parts = self.table(stage.name).parts
        made: list[tuple[_Group, Stage | None]] = []
        left = np.ones(len(group.shards), bool)
        wanted = _as_arrow(_keys(self._fingerprints(group, stage), group.shards)) if parts else None
        for part in parts:
            rows = pc.index_in(wanted, value_set=_as_arrow(part.keys))
            here = rows.is_valid().to_numpy(zero_copy_only=False) & left
            if here.any():
                through = group.choose(here)
                through.way[stage.name] = part, rows.to_numpy(zero_copy_only=False)[here].astype(np.int64)
                made.append((through, None))
                left &= ~here
        return [*made, (group.choose(left), stage)] if left.any() else made

    def _fingerprints(self, group: _Group, stage: Stage) -> np.ndarray:
        if stage.kind == "source":
            return _from_hex(self.chain.source_fingerprints(group.shards.tolist()))
        if stage.kind == "global":
            known = self.chain.globals[stage.name]
            return _from_hex([known.get(self.chain.wave(shard), NOTHING) for shard in group.shards.tolist()])
        marked = _Marked(self.chain, group)
        texts = marked.fill(canonical_json(self.chain.fingerprint_record(stage, marked.view)))
        found = np.frombuffer(bytearray().join(hashlib.sha256(text).digest()[:BYTES] for text in texts), np.uint8)
        found = found.reshape(-1, BYTES)
        if stage.kind == "pack":
            for at in self._withheld(group):
                found[at] = _from_hex([self.chain.fingerprint(stage, self._view(group, at))])[0]
        return found

    def _withheld(self, group: _Group) -> Iterator[int]:
        """Positions of the shards that hold samples which must not be handed over: these few have a record of their own."""
        withheld = self.chain.withheld
        if not withheld.refusers and not withheld.taken:
            return
        for at, shard in enumerate(group.shards.tolist()):

            def entry_of(stage: str, at: int = at) -> str | None:
                part, rows = group.way.get(stage, (None, None))
                return None if part is None or rows is None else part.fingerprints[rows[at]].tobytes().hex()

            if shard in withheld.taken or withheld.matters(shard, entry_of):
                yield at

    def settle(self, stage: Stage) -> None:
        """Note under which fingerprint the verdicts of a global stage stand for the shards that got here, wave by wave.

        What `global_fingerprint` says of them, without making their views.
        """
        pieces: list[tuple[np.ndarray, Iterator[bytes]]] = []
        for group, waits in self._groups:
            if waits is None and len(group.shards):
                marked = _Marked(self.chain, group)
                seen = [marked.shard, marked.view.uids, self.chain.inputs(stage, marked.view)]
                pieces.append((group.shards, marked.fill(canonical_json(seen))))
        shards = np.concatenate([shards for shards, _ in pieces]) if pieces else np.empty(0, np.int64)
        texts = [text for _, filled in pieces for text in filled]
        of_wave: dict[int, list[int]] = {}
        for at in np.argsort(shards, kind="stable").tolist():
            of_wave.setdefault(self.chain.wave(int(shards[at])), []).append(at)
        found: dict[int, str] = {}
        for wave, rows in (of_wave or {0: []}).items():
            earlier = {"after": found[max(found)]} if found else {}
            record = {"made_by": self.chain.made_by(stage), "inputs": ["@"], **earlier}
            before, after = canonical_json(record).split(b'["@"]', 1)
            state = hashlib.sha256(before + b"[")
            for count, at in enumerate(rows):
                state.update(b"," + texts[at] if count else texts[at])
            state.update(b"]" + after)
            found[wave] = state.hexdigest()[:HEX]
        self.chain.globals = {**self.chain.globals, stage.name: found}

    # What callers ask.

    def table(self, stage: str) -> StageTable:
        if stage not in self.tables:
            self.tables[stage] = load_stage(self.chain, stage)
        return self.tables[stage]

    def pending(self) -> list[int]:
        """Shards with something left to do, in order."""
        return sorted(int(shard) for group, waits in self._groups if waits is not None for shard in group.shards)

    def finished(self) -> list[int]:
        return sorted(int(shard) for group, waits in self._groups if waits is None for shard in group.shards)

    def counts(self) -> dict[str, dict[str, int]]:
        """stage → shards that it is committed for, and samples that came out."""
        found = {stage.name: {"shards": 0, "samples": 0} for stage in self.chain.recipe.stages}
        for group, _ in self._groups:
            for name, (part, rows) in group.way.items():
                found[name]["shards"] += len(rows)
                found[name]["samples"] += int(part.rows_out[rows].sum())
        return found

    def waiting(self) -> dict[int, Stage]:
        """shard → the stage it waits for, of those that wait, in order."""
        found = {int(shard): waits for group, waits in self._groups if waits is not None for shard in group.shards}
        return dict(sorted(found.items()))

    def rows_out(self) -> dict[int, int]:
        """shard → samples it has after the last committed stage."""
        found: dict[int, int] = {}
        for group, _ in self._groups:
            if group.way:
                part, rows = next(reversed(group.way.values()))
                found.update(zip(group.shards.tolist(), part.rows_out[rows].tolist(), strict=True))
        return found

    def entries(self, shard: int) -> list[Entry]:
        """The entries in force of a shard, in the order of stages."""
        number, at = self._place(shard)
        return self._entries(self._groups[number][0], at)

    def _entries(self, group: _Group, at: int) -> list[Entry]:
        return [self.tables[stage].entry(int(part.rows[rows[at]])) for stage, (part, rows) in group.way.items()]

    def _view(self, group: _Group, at: int) -> View:
        view = View(int(group.shards[at]))
        for entry in self._entries(group, at):
            view = view.after(entry)
        return view

    def entry(self, shard: int, stage: str) -> Entry:
        """The entry in force of one stage of a shard that came that far."""
        group, at = self._place(shard)
        part, rows = self._groups[group][0].way[stage]
        return self.tables[stage].entry(int(part.rows[rows[at]]))

    def _place(self, shard: int) -> tuple[int, int]:
        if self._found is None:
            self._found = {
                shard: (number, at)
                for number, (group, _) in enumerate(self._groups)
                for at, shard in enumerate(group.shards.tolist())
            }
        return self._found[shard]

    def __getitem__(self, shard: int) -> tuple[View, Stage | None]:
        number, at = self._place(shard)
        group, waits = self._groups[number]
        return self._view(group, at), waits

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(int(shard) for group, _ in self._groups for shard in group.shards))

    def __len__(self) -> int:
        return sum(len(group.shards) for group, _ in self._groups)


class _Marked:
    """The view of a group with marks in the place of what differs from shard to shard."""

    def __init__(self, chain: Chain, group: _Group) -> None:
        self.group = group
        self.shard = _mark("shard", 0)
        columns: dict[str, Column] = {}
        uids = ""
        for stage, (part, _) in group.way.items():
            columns.update({name: Column("", _mark(stage, i)) for i, name in enumerate(part.names)})
            uids = _mark(stage, "uids")
        self.view = View(NOWHERE, uids=uids, columns=columns, entries={stage: _mark(stage, "entry") for stage in group.way})

    def fill(self, text: bytes) -> Iterator[bytes]:
        """The text for each shard, its marks filled in."""
        pieces = re.split(rb'"?\x7f' + TOKEN.encode() + rb'([^\x7f]*)\x7f"?', text)
        literals = [piece.replace(b"%", b"%%") for piece in pieces[::2]]
        marks = [tuple(mark.decode().rsplit(":", 1)) for mark in pieces[1::2]]
        form = literals[0] + b"".join(
            (b"%d" if mark[0] == "shard" else b'"%b"') + literal for mark, literal in zip(marks, literals[1:], strict=True)
        )
        if not marks:
            return (text for _ in range(len(self.group.shards)))
        return self._filled(form, marks)

    def _filled(self, form: bytes, marks: list[tuple[str, ...]]) -> Iterator[bytes]:
        """Some shards at a time: as Python objects the hashes of all of them would be most of a gigabyte."""
        for start in range(0, len(self.group.shards), CHUNK):
            some = slice(start, start + CHUNK)
            values = {mark: self._values(mark[0], mark[1], some) for mark in dict.fromkeys(marks)}
            yield from (form % row for row in zip(*(values[mark] for mark in marks), strict=True))

    def _values(self, stage: str, what: str, some: slice) -> list[Any]:
        if stage == "shard":
            return self.group.shards[some].tolist()
        part, rows = self.group.way[stage]
        array = {"uids": part.uids, "entry": part.fingerprints}.get(what)
        return _texts((part.hashes[:, int(what)] if array is None else array)[rows[some]])


def global_fingerprint(chain: Chain, stage: Stage, views: Sequence[View], after: str | None = None) -> str:
    """What the verdicts over the shards of one wave depend on: the operator, the columns it reads of every shard, and (`after`) the
    verdicts of the wave before."""
    inputs = [[view.shard, view.uids, chain.inputs(stage, view)] for view in views]
    return digest({"made_by": chain.made_by(stage), "inputs": inputs, **({"after": after} if after else {})})


def reach(chain: Chain, shards: Sequence[int]) -> Reach:
    """How far every shard has come, global stages included: shard → its view and the first stage still to do."""
    at = Reach(chain, shards)
    for segment in chain.recipe.segments():
        if segment[0].kind == "global":
            at.settle(segment[0])
        at.advance(segment)
    return at


def _mark(stage: str, what: str | int) -> str:
    return f"\x7f{TOKEN}{stage}:{what}\x7f"  # a control character that JSON leaves as it is
