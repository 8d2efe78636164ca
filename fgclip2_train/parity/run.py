"""All checks of one folder, and the table that says how far off each quantity is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch.multiprocessing import ProcessRaisedException

from fgclip2_train.parity.features import check_features, check_images, check_initialisation
from fgclip2_train.parity.golden import Finding, Golden
from fgclip2_train.parity.steps import check_edges, check_step, check_synthetic, check_two_ranks

LOSS64, GRADIENT64 = 1e-9, 1e-8
LOSS32, FEATURE32, GRADIENT32 = 1e-5, 5e-5, 2e-4
FILES = (
    *("config.json", "weights.safetensors", "init_config.json", "siglip2_base.safetensors", "after_init.safetensors"),
    *("images.json", "images.safetensors", "batch.safetensors"),
    *("expected.json", "expected.safetensors", "synthetic.safetensors"),
)
UNFIT = (
    *(RuntimeError, ArithmeticError, LookupError, TypeError, AttributeError),
    *(StrictDataclassError, ProcessRaisedException),
)
"""What sizes, counts and kinds of values raise that another file of the folder says otherwise, in a process of their own too."""


def check_folder(folder: Path) -> list[Finding]:
    """Every quantity of a folder in the golden format. Raises ValueError for one that lacks something or does not fit together."""
    lacking = [name for name in FILES if not (folder / name).is_file()]
    if lacking:
        raise ValueError(f"{folder}: not a folder of reference numbers, no {', '.join(lacking)}")
    golden = Golden(folder)
    steps = [key for key in golden.json("expected") if key.startswith("threshold_")]
    if not steps:
        raise ValueError(f"{folder / 'expected.json'}: no step in it, which would be under 'threshold_…'")
    checks: dict[str, Callable[[], list[Finding]]] = {
        "images": lambda: check_images(golden),
        "initialisation": lambda: check_initialisation(golden),
        "features": lambda: check_features(golden, torch.float64, LOSS64, "features"),
        **{key: partial(check_step, golden, key, torch.float64, LOSS64, GRADIENT64, f"step at {key}") for key in steps},
        "edge cases": lambda: check_edges(golden, LOSS64),
        "synthetic cases": lambda: check_synthetic(golden, LOSS64),
        "two ranks": lambda: check_two_ranks(golden, LOSS64, GRADIENT64),
        "features in float32": lambda: check_features(golden, torch.float32, FEATURE32, "features, float32"),
        **{
            f"{key} in float32": partial(check_step, golden, key, torch.float32, LOSS32, GRADIENT32, f"{key}, float32")
            for key in steps
        },
    }
    findings = []
    for area, check in checks.items():
        try:
            findings += check()
        except UNFIT as error:
            told = f"{type(error).__name__}: {str(error).strip().splitlines()[-1].strip()}"
            raise ValueError(f"{folder}: {area}: its files do not fit together ({told})") from error
    return findings


def table(findings: list[Finding], verbose: bool = False) -> str:
    """One line per area and tolerance with its worst quantity; every quantity if `verbose`, every failure in any case."""
    lines = [f"{'area':<28} {'quantities':>10} {'largest':>10} {'allowed':>10}  where"]
    for (area, tolerance), items in groupby(
        sorted(findings, key=lambda item: (item.area, item.tolerance)), lambda item: (item.area, item.tolerance)
    ):
        group = list(items)
        worst = max(group, key=lambda item: item.deviation if item.deviation == item.deviation else float("inf"))
        lines.append(
            f"{area:<28} {len(group):>10} {worst.deviation:>10.1e} {tolerance:>10.1e}  {worst.name if worst.deviation else '-'}"
        )
        shown = group if verbose else [item for item in group if not item.ok]
        lines += [f"  {'ok  ' if item.ok else 'FAIL'} {item.deviation:.3e}  {item.name}" for item in shown]
    bad = sum(not item.ok for item in findings)
    lines.append(
        f"{len(findings)} quantities, {bad} beyond tolerance" if bad else f"{len(findings)} quantities, all within tolerance"
    )
    return "\n".join(lines)
