import pyarrow as pa

from operators.nsfw import Nsfw


def run(operator, *said):
    return operator(pa.table({"uid": [str(i) for i in range(len(said))], "source_nsfw": pa.array(said, pa.string())}))


def test_words_and_numbers_of_the_sources_become_a_score():
    kept = run(Nsfw(max_score=None), "UNLIKELY", "unsure", "NSFW", "0.25", " 1e-3 ", "nan", "7", "", None, "что").kept
    assert kept["nsfw"].to_pylist() == [0, 0.5, 1, 0.25, 0.0010000000474974513, None, None, None, None, None]


def test_what_is_above_the_limit_is_refused_and_the_unknown_only_if_asked():
    said = ("NSFW", "0.5", None)
    assert [(r.uid, r.reason, r.detail) for r in run(Nsfw(), *said).rejects] == [("0", "nsfw", "1.0 > 0.5")]
    assert [(r.uid, r.reason) for r in run(Nsfw(unknown="refuse"), *said).rejects] == [("0", "nsfw"), ("2", "nsfw_unknown")]
