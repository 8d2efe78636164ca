"""What becomes of shards, records and pictures that are not as they should be: counted holes, up to a ceiling, or a reason to stop."""

import errno
import gzip
import hashlib
import io
import json
import lzma
import os
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make_shards import write_scenes, write_shard
from PIL import Image
from reader_kit import reader, same, sample

from fgclip2_train.data.loader import Loader
from fgclip2_train.data.shards import _content, _Header, _indexed, find_shards, marks, read_shard, rewritten


def test_damaged_samples_are_skipped_and_counted(tmp_path, texts):
    good = [sample(f"{number:032x}") for number in range(6)]
    bad_picture = (f"{90:032x}", b"<html>not found</html>", sample(f"{90:032x}")[2])
    cut_picture = (f"{91:032x}", sample(f"{91:032x}")[1][:200], sample(f"{91:032x}")[2])
    no_json = (f"{92:032x}", b"x", None)
    odd_json = (f"{93:032x}", b"x", b"[1, 2")
    write_shard(tmp_path / "0.tar", [good[0], bad_picture, *good[1:3], no_json, cut_picture, odd_json, *good[3:]])
    whole = write_shard(tmp_path / "1.tar", good).read_bytes()
    (tmp_path / "1.tar").write_bytes(whole[: len(whole) * 2 // 3])
    loader = Loader(reader(str(tmp_path), texts, languages={"en": 1}), 0)
    uids = {uid for _ in range(8) for uid in next(loader).uids}
    assert uids == {uid for uid, _, _ in good}
    assert loader.counts["bad: picture cannot be decoded"] > 0
    assert loader.counts["bad: picture or record missing"] > 0
    assert loader.counts["bad: record is not a JSON object"] > 0
    assert loader.counts[f"bad: shard cut short: {tmp_path / '1.tar'}"] > 0


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (gzip.compress, "shard is compressed by gzip, not a plain tar"),
        (lzma.compress, "shard is compressed by xz, not a plain tar"),
        (lambda tar: b"PAR1" + tar, "shard is Parquet, not a plain tar"),
        (lambda tar: b"<html>" + tar, "shard is not a tar"),
        (lambda tar: tar[:300], "shard cut short"),
        (lambda tar: tar[:700], "shard cut short"),
        (lambda tar: b"", "shard cut short"),
        (lambda tar: bytes(len(tar)), "shard ends before its file does"),
        (lambda tar: bytes(10_240), "shard ends before its file does"),
    ],
)
def test_a_file_of_another_kind_by_a_shards_name_is_called_what_it_is(tmp_path, made, said):
    shard = write_shard(tmp_path / "0.tar", [sample(f"{n:032x}") for n in range(3)])
    shard.write_bytes(made(shard.read_bytes()))
    counts: Counter[str] = Counter()
    assert list(read_shard(str(shard), counts, lambda place, record: True)) == []
    assert counts == {f"bad: {said}: {shard}": 1}


@pytest.mark.parametrize(("indexed", "bad"), [(None, 1), (60, 40)])
@pytest.mark.parametrize("made", [lambda head, rest: head + bytes(len(rest)), lambda head, rest: head + bytes(1024) + rest])
def test_a_shard_zeroed_from_somewhere_on_or_written_behind_another_is_named(made, indexed, bad, tmp_path):
    """As a disk leaves a file after a crash, and as `cat` joins two: to a tar's reader both look like its end."""
    shard = write_shard(tmp_path / "0.tar", [sample(f"{n:032x}") for n in range(60)])
    whole = shard.read_bytes()
    with tarfile.open(shard) as tar:
        end = [member.offset for member in tar][2 * 20]
    shard.write_bytes(made(whole[:end], whole[end:]))
    if indexed:
        rows = {"uid": ["-"] * indexed, "tar": ["0.tar"] * indexed}
        pq.write_table(pa.table(rows), tmp_path / "index.parquet")
    _indexed.cache_clear()
    counts: Counter[str] = Counter()
    assert len(list(read_shard(str(shard), counts, lambda place, record: True))) == 20
    assert counts == {f"bad: shard ends before its file does: {shard}": bad}


def test_a_shard_that_the_index_knows_to_be_whole_is_not_named_whatever_follows_it(tmp_path):
    """Some writers fill a tar up to a megabyte, and some shards hold nothing."""
    shard = write_shard(tmp_path / "0.tar", [sample(f"{n:032x}") for n in range(3)])
    shard.write_bytes(shard.read_bytes() + bytes(1 << 20))
    write_shard(tmp_path / "1.tar", [])
    pq.write_table(pa.table({"uid": ["-"] * 3, "tar": ["0.tar"] * 3}), tmp_path / "index.parquet")
    _indexed.cache_clear()
    counts: Counter[str] = Counter()
    assert [len(list(read_shard(path, counts, lambda *_: True))) for path in find_shards(str(tmp_path))] == [3, 0]
    assert not counts


def test_too_many_damaged_samples_stop_the_run(tmp_path, texts):
    half = [sample(f"{n:032x}") if n % 2 else (f"{n:032x}", b"no picture", sample(f"{n:032x}")[2]) for n in range(20)]
    write_shard(tmp_path / "0.tar", half)
    loader = Loader(reader(str(tmp_path), texts, languages={"en": 1}, max_bad_share=0.2), 0)
    with pytest.raises(ValueError, match=r"unreadable, above data\.max_bad_share=0\.2: picture cannot be decoded"):
        for _ in range(100):
            next(loader)


def test_a_shard_cut_short_counts_as_what_the_index_says_is_missing(tmp_path, texts):
    """Two thirds of the one shard are gone: far above the ceiling, though it is one fault in one file."""
    folder = tmp_path / "shards"
    folder.mkdir()
    write_shard(folder / "0.tar", [sample(f"{n:032x}") for n in range(100)])
    whole = write_shard(folder / "1.tar", [sample(f"{n:032x}") for n in range(100, 190)])
    with tarfile.open(whole) as tar:
        end = [member.offset for member in tar][2 * 30]
    whole.write_bytes(whole.read_bytes()[:end])

    def given(batches: int) -> Loader:
        settings = {"languages": {"en": 1}, "max_bad_share": 0.2}
        loader = Loader(reader(str(folder), texts, batch=20, **settings), 0)
        for _ in range(batches):
            next(loader)
        return loader

    reason = f"bad: shard cut short: {whole}"
    assert given(8).counts[reason] == 1  # an epoch is 130 samples
    rows = {"uid": ["-"] * 190, "tar": ["0.tar"] * 100 + ["1.tar"] * 90, "offset": [0] * 190, "size": [0] * 190}
    pq.write_table(pa.table(rows), tmp_path / "index.parquet")
    _indexed.cache_clear()
    with pytest.raises(ValueError, match=r"29\.\d% of the samples are unreadable, above .*1\.tar 60 "):
        given(14)


def test_readers_that_share_a_shard_do_not_multiply_its_bad_records(tmp_path, texts):
    """Eight readers, one shard: each reads all records, one in fifty is bad, and each gives out an eighth."""
    samples = [sample(hashlib.md5(str(n).encode()).hexdigest()) for n in range(250)]
    write_shard(tmp_path / "0.tar", [*samples, *[(f"{n:032x}", b"x", b"[") for n in range(5)]])
    settings = {"languages": {"en": 1}, "shuffle_block": 100}
    loader = Loader(reader(str(tmp_path), texts, batch=20, rank=3, ranks=8, **settings), 0)
    for _ in range(12):
        next(loader)
    assert 0.015 < sum(loader.counts.values()) / loader.read < 0.025


GONE, FOLDER = "No such file or directory", "Is a directory"


@pytest.mark.parametrize("mixing", ["sample", "batch"])
@pytest.mark.parametrize("what", [GONE, FOLDER])
def test_a_shard_that_cannot_be_read_is_a_counted_hole_and_resuming_is_exact(what, mixing, tmp_path, texts):
    shards = find_shards(write_scenes(tmp_path, shards=4, per_shard=10, side=64))
    Path(shards[2]).unlink()
    if what == FOLDER:
        Path(shards[2]).mkdir()

    def loader(**position):
        chosen = reader(str(tmp_path), texts, mixing=mixing, max_bad_share=0.1, **position)
        chosen.sources = {"shards": (shards, 1.0)}  # as they were found before one went
        return Loader(chosen, 0)

    straight = loader()
    expected = [next(straight) for _ in range(20)]
    assert len({uid for batch in expected for uid in batch.uids}) == 30
    assert straight.counts[f"bad: shard cannot be read ({what}): {shards[2]}"] > 1
    for cut in (1, 6, 11):
        first = loader()
        for _ in range(cut):
            next(first)
        state = json.loads(json.dumps(first.state()))
        resumed = loader(step=state["step"], positions=state["positions"])
        assert all(same(next(resumed), batch) for batch in expected[cut:])


class Faulty:
    """Raises for `path` at its n-th to m-th read of n, m in `when`, as a disk that comes and goes."""

    def __init__(self, monkeypatch, path: str, error: OSError, when: range):
        self.path, self.error, self.when, self.reads, self.usual = path, error, when, 0, _content
        monkeypatch.setattr("fgclip2_train.data.shards._content", self)
        monkeypatch.setattr("fgclip2_train.data.shards.PAUSE", 0)

    def __call__(self, tar, member):
        if tar.name == self.path:
            self.reads += 1
            if self.reads in self.when:
                raise self.error
        return self.usual(tar, member)


@pytest.mark.parametrize("patches", [16, "bucketed"])
def test_a_shard_lost_for_a_while_ends_there_again_when_the_run_goes_on(patches, tmp_path, texts, monkeypatch):
    """It fails in the middle of the second block and can be read again by the time that the run is resumed."""
    shards = find_shards(write_scenes(tmp_path, shards=2, per_shard=20, side=64, languages=("en",)))

    def loader(**position):
        options = {"languages": {"en": 1}, "patches": patches, "bucket_pool": 3, "shuffle_block": 9}
        return Loader(reader(str(tmp_path), texts, **options, **position), 0)

    faulty = Faulty(monkeypatch, shards[0], OSError(errno.EIO, "Input/output error"), range(0))
    first, positions = loader(), {}
    faulty.reads, faulty.when = 0, range(15, 17)
    expected = []
    for number in range(12):
        expected.append(next(first))
        positions[number + 1] = json.loads(json.dumps(first.state()))
    assert first.counts[f"bad: shard cannot be read (Input/output error): {shards[0]}"] == 1
    faulty.when = range(0)
    for cut, state in positions.items():
        resumed = loader(step=state["step"], positions=state["positions"])
        if cut >= 3:  # the fault lies behind
            assert all(same(next(resumed), batch) for batch in expected[cut:]), cut


def test_one_failed_read_is_tried_again_and_costs_nothing(tmp_path, monkeypatch):
    path = write_shard(tmp_path / "0.tar", [sample(f"{n:032x}") for n in range(5)])
    Faulty(monkeypatch, str(path), OSError(errno.EIO, "Input/output error"), range(4, 5))
    counts: Counter[str] = Counter()
    assert [raw.place for raw in read_shard(str(path), counts, lambda place, record: True)] == [0, 1, 2, 3, 4] and not counts


@pytest.mark.parametrize("fault", [errno.EMFILE, errno.ENOSPC])
def test_faults_of_this_machine_are_no_holes(fault, tmp_path, monkeypatch):
    path = write_shard(tmp_path / "0.tar", [sample(f"{n:032x}") for n in range(5)])
    Faulty(monkeypatch, str(path), OSError(fault, os.strerror(fault)), range(4, 5))
    with pytest.raises(OSError, match=os.strerror(fault)):
        list(read_shard(str(path), Counter(), lambda place, record: True, holes=True))


def test_more_holes_than_the_ceiling_allows_stop_the_run(tmp_path, texts):
    """By the index, which knows how many samples were in them."""
    shards = find_shards(write_scenes(tmp_path, shards=6, per_shard=50, side=64, languages=("en",)))
    names = [Path(shard).name for shard in shards for _ in range(50)]
    pq.write_table(pa.table({"uid": ["-"] * 300, "tar": names}), tmp_path / "index.parquet")
    _indexed.cache_clear()
    chosen = reader(str(tmp_path), texts, batch=20, languages={"en": 1}, max_bad_share=0.2)
    for shard in shards[:2]:
        Path(shard).unlink()
    loader = Loader(chosen, 0)
    with pytest.raises(ValueError, match=rf"{GONE}\): {tmp_path}/0000\d\.tar 50"):
        for _ in range(30):
            next(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_of_which_none_can_be_read_stop_with_their_reason(workers, tmp_path, texts):
    for number in range(3):
        (tmp_path / f"{number}.tar").mkdir()
    with pytest.raises(ValueError, match=r"none of 3 shards can be read: shard cannot be read \(Is a directory\): .*\.tar"):
        next(Loader(reader(str(tmp_path), texts, languages={"en": 1}), workers))


def test_another_format_version_is_refused_by_name(tmp_path):
    path = write_shard(tmp_path / "0.tar", [sample("a" * 32, format="fineloom/2")])
    with pytest.raises(ValueError, match="format fineloom/2; this trainer reads fineloom/1"):
        list(read_shard(str(path), Counter(), lambda place, record: True))


UNSOUND = {
    "no texts": {"texts": None},
    "texts of which there are none": {"texts": []},
    "a text of two languages": {"texts": [{"language": ["en"], "length": "short", "origin": "source", "text": "a cat"}]},
    "a text without words": {"texts": [{"language": "en", "length": "short", "origin": "source", "text": None}]},
    "a text of no known length": {"texts": [{"language": "en", "length": "medium", "origin": "source", "text": "a cat"}]},
    "a text of half a character": {"texts": [{"language": "en", "length": "short", "origin": "source", "text": "a \ud83d"}]},
    "a blank text": {"texts": [{"language": "en", "length": "short", "origin": "source", "text": " "}]},
    "regions that are no list": {"regions": 3},
    "a region without its box": {"regions": [{"language": "en", "short": "a", "long": "a", "negatives": []}]},
    "a blank expression": {"regions": [{"box": [0, 0, 1, 1], "language": "en", "short": " ", "long": "a", "negatives": []}]},
    "a box turned over": {"regions": [{"box": [0.9, 0, 0.1, 1], "language": "en", "short": "a", "long": "a", "negatives": []}]},
    "a box in pixels": {"regions": [{"box": [0, 0, 60, 60], "language": "en", "short": "a", "long": "a", "negatives": []}]},
    "a box of nothing": {"regions": [{"box": [0, float("nan"), 1, 1], "language": "en", "short": "a", "long": "a"}]},
    "no size": {"width": None},
    "an identity of another kind": {"uid": "sample-17"},
    "an identity below zero": {"uid": "-" + "7" * 31},
    "an identity with a gap": {"uid": "7" * 11 + "_" + "7" * 20},
    "a digest with a gap": {"sha256": "7" * 14 + "_" + "7" * 49},
    "no digest": {"sha256": None},
}


@pytest.mark.parametrize("what", UNSOUND)
def test_a_record_that_is_not_as_the_format_has_it_is_skipped_and_counted(what, tmp_path, texts):
    good = [sample(f"{number:032x}") for number in range(3)]
    write_shard(tmp_path / "0.tar", [good[0], sample(f"{7:032x}", **UNSOUND[what]), *good[1:]])
    loader = Loader(reader(str(tmp_path), texts, languages={"en": 1}, patches="official"), 0)
    assert {uid for _ in range(3) for uid in next(loader).uids} == {uid for uid, _, _ in good}
    assert loader.counts["bad: record is not as the format has it"] > 0


def test_a_record_nested_without_end_is_skipped(tmp_path, texts):
    whole = sample("a" * 32)
    write_shard(tmp_path / "0.tar", [whole, ("b" * 32, whole[1], b"[" * 100_000)])
    loader = Loader(reader(str(tmp_path), texts, languages={"en": 1}), 0)
    assert set(next(loader).uids) == {"a" * 32}
    assert loader.counts["bad: record is not a JSON object"] > 0


def test_nothing_but_broken_pictures_stops_at_once_and_not_never(tmp_path, texts):
    write_shard(tmp_path / "0.tar", [(f"{n:032x}", b"no picture", sample(f"{n:032x}")[2]) for n in range(3)])
    loader = Loader(reader(str(tmp_path), texts, languages={"en": 1}), 0)
    with pytest.raises(ValueError, match="201 pictures that cannot be decoded, for one batch of 4"):
        next(loader)


def test_damage_of_any_kind_is_the_pictures_fault(tmp_path, texts):
    """AVIF's reader raises RuntimeError, others raise what the damaged bytes lead them to."""
    data = io.BytesIO()
    Image.effect_noise((64, 48), 50).convert("RGB").save(data, "AVIF")
    half = data.getvalue()[: len(data.getvalue()) * 2 // 3]
    good = [sample(f"{number:032x}") for number in range(4)]
    write_shard(tmp_path / "0.tar", [*good, (f"{9:032x}", half, sample(f"{9:032x}")[2])])
    loader = Loader(reader(str(tmp_path), texts, languages={"en": 1}), 0)
    for _ in range(6):
        next(loader)
    assert loader.counts["bad: picture cannot be decoded"] > 0


@pytest.mark.parametrize("workers", [0, 1])
def test_what_stops_a_reader_is_said_in_its_own_words(workers, tmp_path, texts):
    write_shard(tmp_path / "0.tar", [sample("a" * 32, format="fineloom/2")])
    with pytest.raises(ValueError) as caught:
        next(Loader(reader(str(tmp_path), texts, languages={"en": 1}), workers))
    assert str(caught.value).startswith(str(tmp_path)) and "Traceback" not in str(caught.value)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_headers_of_every_kind_are_read_as_tarfile_reads_them(format, tmp_path):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w", format=format) as tar:
        for name in ("a.jpg", "x" * 90 + ".json", "y" * 60 + "/" + "z" * 80 + ".jpg", "图.jpg", "folder/", "b.json"):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            member.size = 0 if member.isdir() else len(name) * 100
            member.uid, member.uname = 2**40 if format != tarfile.USTAR_FORMAT else 7, "someone"
            tar.addfile(member, io.BytesIO(bytes(member.size)))

    def listed(**options):
        with tarfile.open(path, **options) as tar:
            return [(member.name, member.size, member.offset_data, member.type) for member in tar]

    assert listed(tarinfo=_Header) == listed()
    data = bytearray(path.read_bytes())
    for place, byte in ((3, 65), (126, 57), (126, 255), (150, 57), (150, 255)):  # in the name, the size, the checksum
        path.write_bytes(data[:place] + bytes([byte]) + data[place + 1 :])
        for options in ({}, {"tarinfo": _Header}):
            with pytest.raises(tarfile.ReadError):
                listed(**options)


@pytest.mark.parametrize("folder", ["./", "../", "v1.0/part.2/"])
def test_samples_in_folders_of_a_tar_are_told_apart_and_only_files_are_members(folder, tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:

        def add(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE) -> None:
            member = tarfile.TarInfo(folder + name)
            member.size, member.type, member.linkname = len(data), kind, "elsewhere.jpg"
            tar.addfile(member, io.BytesIO(data))

        add("", kind=tarfile.DIRTYPE)
        for uid, picture, record in (sample("a" * 32), sample("b" * 32)):
            add(f"{uid}.jpg", picture)
            add(f"{uid}.json", record)
        add(f"{'c' * 32}.jpg", kind=tarfile.LNKTYPE)
        add(f"{'c' * 32}.json", sample("c" * 32)[2])
    counts: Counter[str] = Counter()
    assert [raw.uid[0] for raw in read_shard(str(tmp_path / "0.tar"), counts, lambda place, record: True)] == ["a", "b"]
    assert counts == {"bad: picture or record missing": 1}


def test_samples_of_one_key_are_each_read(tmp_path):
    write_shard(tmp_path / "0.tar", [sample("a" * 32), sample("a" * 32), ("a" * 32, b"", None), sample("b" * 32)])
    counts: Counter[str] = Counter()
    assert [raw.uid[0] for raw in read_shard(str(tmp_path / "0.tar"), counts, lambda place, record: True)] == ["a", "a", "b"]
    assert counts == {"bad: picture or record missing": 1}


def test_a_pattern_without_shards_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no shard matches"):
        find_shards(str(tmp_path / "*.tar"))
    with pytest.raises(FileNotFoundError, match="the list of their patterns is empty"):
        find_shards([])
    with pytest.raises(OSError, match=r"nostore://shards/\*\.tar: cannot be listed \(ValueError: Protocol not known"):
        find_shards("nostore://shards/*.tar")


@pytest.mark.parametrize("store", ["", "file://"])
def test_a_shard_written_again_is_known_by_its_time_here_and_in_a_store(tmp_path, store):
    shards = [f"{store}{tmp_path}/{name}.tar" for name in ("a", "b", "gone")]
    for name in ("a", "b"):
        (tmp_path / f"{name}.tar").write_bytes(b"12")
        os.utime(tmp_path / f"{name}.tar", (1, 1))
    before = marks(shards)
    assert rewritten(shards, before, marks(shards)) == [] and before.split()[2] == "-"
    (tmp_path / "b.tar").write_bytes(b"21")
    assert rewritten(shards, before, marks(shards)) == shards[1:2]
