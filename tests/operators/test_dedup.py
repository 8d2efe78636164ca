import numpy as np
import pyarrow as pa
import pytest

import operators.dedup as dedup
from operators.base import Reject
from operators.dedup import Dedup, keep_apart

FULL = 2**64 - 1


def table(sha=None, phash=None, pixels=None, uids="abcdefgh"):
    rows = len(sha or phash)
    return pa.table(
        {
            "uid": list(uids[:rows]),
            "sha256": pa.array(list(sha) if sha else [None] * rows, pa.string()),
            "phash": pa.array(phash or [None] * rows, pa.uint64()),
            "width": pa.array(pixels or [1] * rows, pa.int32()),
            "height": pa.array([1] * rows, pa.int32()),
        }
    )


def given_way_to(verdicts):
    return "".join(uid or "-" for uid in verdicts["duplicate_of"].to_pylist())


def test_the_first_of_equal_bytes_is_kept():
    assert given_way_to(Dedup().verdicts(table("xyxxz"))) == "--aa-"


def test_unknown_bytes_and_hashes_are_equal_to_nothing():
    assert given_way_to(Dedup().verdicts(table([None, None, "x", None], [None, None, None, 3]))) == "----"


def test_near_is_within_the_distance_and_no_further():
    hashes = [0, 0b111, 0b1111, FULL]
    assert given_way_to(Dedup(max_distance=3).verdicts(table(phash=hashes))) == "-a--"
    assert given_way_to(Dedup(max_distance=2).verdicts(table(phash=hashes))) == "--b-"
    assert given_way_to(Dedup(max_distance=None).verdicts(table(phash=[0, 0]))) == "--"
    assert given_way_to(Dedup(max_distance=0).verdicts(table(phash=[0, 1, 0]))) == "--a"


def test_a_chain_does_not_drift():
    """a~b~c~d, but c is too far from a: c is kept, and d gives way to c, not to b or a."""
    chain = [0, 0b111, 0b111111, 0b11111111]
    assert given_way_to(Dedup(max_distance=3).verdicts(table(phash=chain))) == "-a-c"


def test_equal_bytes_of_a_sample_that_is_gone_lead_to_the_kept_one():
    verdicts = Dedup(max_distance=3).verdicts(table("xyy", [0, 1, 1]))
    assert given_way_to(verdicts) == "-aa"
    assert verdicts["reason"].to_pylist() == [None, "near_duplicate", "near_duplicate"]


def test_the_best_by_a_column_is_kept_but_never_before_what_an_earlier_wave_kept():
    scores = pa.array([0.2, 0.9, 0.9, None, float("nan")], pa.float32())
    alike = table("xxxxx").append_column("clip_score", scores)
    best = Dedup(best="clip_score")
    assert given_way_to(best.verdicts(alike)) == "b-bbb"
    assert given_way_to(best.verdicts(alike.slice(1), known=alike.slice(0, 1))) == "aaaa"
    assert [column for column in best.reads.names if column not in Dedup().reads.names] == ["clip_score"]
    with pytest.raises(ValueError, match="two rules for one choice"):
        Dedup(best="clip_score", keep="largest")


def test_settings_without_best_are_told_as_they_always_were():
    """A stage's fingerprint is of these words: another one would judge every run anew."""
    assert Dedup().model_dump(mode="json") == {"exact": True, "max_distance": 3, "keep": "first"}
    assert Dedup(best="aspect").model_dump(mode="json")["best"] == "aspect"


def test_the_largest_is_kept_and_ties_go_to_the_first():
    same = table("xxxx", pixels=[5, 9, 9, None])
    assert given_way_to(Dedup(keep="largest").verdicts(same)) == "b-bb"
    assert given_way_to(Dedup(keep="first").verdicts(same)) == "-aaa"


def test_rejects_name_the_kept_sample():
    outcome = Dedup()(table("xxyz", [0, 0, 0b11, FULL]))
    assert outcome.rejects == [
        Reject("b", "duplicate", "of a"),
        Reject("c", "near_duplicate", "of a, 2 of 64 bits differ"),
    ]
    assert outcome.kept.to_pydict() == {"uid": ["a", "d"], "duplicate_of": [None, None]}


def test_what_was_kept_before_comes_first_even_if_smaller():
    known = table("x", [0], pixels=[1], uids="k")
    new = table("xyzz", [0, 1, FULL, FULL], pixels=[10, 10, 10, 20])
    assert given_way_to(Dedup(keep="largest").verdicts(new, known)) == "kkd-"


def test_only_the_columns_that_are_used_are_read():
    assert Dedup(max_distance=None).reads.names == ["sha256"]
    assert Dedup(exact=False).reads.names == ["phash"]
    assert Dedup(keep="largest").reads.names == ["sha256", "phash", "width", "height"]


def by_hand(hashes, distance, known):
    kept, found = list(range(known)), list(range(len(hashes)))
    for i in range(known, len(hashes)):
        near = [k for k in kept if (int(hashes[i]) ^ int(hashes[k])).bit_count() <= distance]
        found[i] = near[0] if near else i
        kept += [] if near else [i]
    return found


@pytest.mark.parametrize("distance", [1, 3, 5, 8, 12])
@pytest.mark.parametrize("known", [0, 70])
def test_the_fast_search_agrees_with_comparing_every_pair(monkeypatch, distance, known):
    """With tiny limits, so that halves, tables and parts of candidate lists are all gone through."""
    monkeypatch.setattr(dedup, "BASE_ROWS", 5)
    monkeypatch.setattr(dedup, "CANDIDATES", 7)
    random = np.random.default_rng(distance)
    hashes = random.integers(0, 2**64, 12, dtype=np.uint64)[random.integers(0, 12, 400)]
    for _ in range(6):  # clouds around 12 centres, partly within the distance of one another
        hashes = hashes ^ (np.uint64(1) << random.integers(0, 64, 400, dtype=np.uint64))
    hashes = random.permutation(np.unique(hashes))
    assert keep_apart(hashes, distance, known).tolist() == by_hand(hashes, distance, known)


def test_the_verdict_does_not_depend_on_how_the_columns_are_chunked():
    random = np.random.default_rng(0)
    rows = pa.table(
        {
            "uid": [f"{i:04d}" for i in range(2000)],
            "sha256": [str(i) for i in random.integers(0, 1500, 2000)],
            "phash": pa.array(random.integers(0, 2**64, 900, dtype=np.uint64)[random.integers(0, 900, 2000)]),
        }
    )
    pieces = pa.concat_tables([rows.slice(i, 333) for i in range(0, 2000, 333)])
    assert Dedup().verdicts(pieces).equals(Dedup().verdicts(rows))
