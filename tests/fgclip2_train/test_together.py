"""One of two processes fails alone: the other ends soon and says why, whether or not the first one's process is gone."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import sys, time
import torch.distributed as dist
from fgclip2_train.together import ending_together

rank, store, stays = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "stays"
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
dist.barrier()
try:
    with ending_together(grace=1 if stays else 60):
        if rank == 1:
            raise ValueError("90 of 300 samples are unreadable")
        dist.barrier()
except ValueError:
    if stays:  # as a worker that a launcher of its own keeps alive, or one that does not get out of a kernel
        sys.stdin.read()
    raise
"""


@pytest.mark.parametrize("first", ["stays", "goes"])
def test_who_waits_for_a_rank_that_failed_hears_of_it(first, tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    ranks = [
        subprocess.Popen([sys.executable, "-c", CODE, str(rank), str(tmp_path / "store"), first], cwd=ROOT, **pipes)
        for rank in range(2)
    ]
    try:
        said = ranks[0].communicate(timeout=500)[1]
        assert ranks[0].returncode == 1
        assert "rank 1 failed: ValueError: 90 of 300 samples are unreadable" in said
        assert "Connection closed" not in said
        assert "90 of 300 samples" in ranks[1].communicate(timeout=500)[1]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
