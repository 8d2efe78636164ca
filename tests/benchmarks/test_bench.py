"""`make bench`: every benchmark is in it, and says what it needs where that is not here."""

from pathlib import Path

from benchmarks.__main__ import BENCHES, GPU, HERE, SERVER, Bench, lacks

FOLDER = Path(HERE) / "benchmarks"


def test_every_benchmark_is_called_and_every_one_called_is_there():
    there = {path.stem for path in FOLDER.glob("*.py")} | {path.parent.name for path in FOLDER.glob("*/__main__.py")}
    assert {bench.name for bench in BENCHES} == there - {"__main__"}


def test_what_is_not_here_is_said():
    assert lacks(Bench("client", "", SERVER), []) == SERVER
    assert lacks(Bench("client", "", SERVER), ["--base-url", "x", "--model", "y"]) == ""
    assert lacks(Bench("x", "", ("no/such/*.tar", "make demo")), []) == "no/such/*.tar (make demo)"
    assert lacks(Bench("x", "", ("benchmarks/*.py", "git")), []) == ""
    assert lacks(Bench("x"), []) == "" and lacks(Bench("x", "", GPU), []) in ("", GPU)
