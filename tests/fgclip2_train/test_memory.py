"""A process that keeps its memory."""

import subprocess
import sys

PROGRAM = """
import resource, sys
import torch
from fgclip2_train.memory import keep_memory
if sys.argv[1:]:
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
keep_memory()
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) // 1024
before = resident()
torch.ones(100, 2**20)
kept = resident()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(100, 2**20)
print(before, kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


def numbers(*arguments: str) -> list[int]:
    return [int(word) for word in subprocess.check_output([sys.executable, "-c", PROGRAM, *arguments], text=True).split()]


def test_what_was_freed_is_used_again_and_nothing_is_taken_before():
    before, kept, faults = numbers()
    assert before < 1000, "half of the machine's memory is asked for, not taken"
    assert kept - before > 300 and faults < 5000  # 400 MB are 100,000 pages


def test_a_process_with_little_room_goes_on():
    before, kept, _ = numbers(str(6 * 2**30))
    assert kept - before > 300
