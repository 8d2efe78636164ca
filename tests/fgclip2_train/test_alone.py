"""One run at a time in a folder."""

import subprocess
import sys

import pytest

from fgclip2_train import alone as module
from fgclip2_train.alone import alone

HOLD = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.lockf(file, fcntl.LOCK_EX); print('held', flush=True); input()"


@pytest.fixture
def other(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_in_a_folder_is_refused(other, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    with pytest.raises(ValueError, match="another process trains there"), alone(tmp_path):
        pass


def test_it_goes_on_as_soon_as_the_first_has_died(other, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module.time, "sleep", lambda _: (other.kill(), other.wait()))
    with alone(tmp_path):
        assert "waiting up to 120 s" in capsys.readouterr().out


def test_a_folder_is_free_again_afterwards(tmp_path):
    for _ in range(2):
        with alone(tmp_path):
            pass
