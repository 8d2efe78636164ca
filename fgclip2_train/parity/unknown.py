"""What a folder of reference numbers holds that no check compares, so that nobody takes it for checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fgclip2_train.objective import Weights
from fgclip2_train.parity.golden import LOSS_NAMES, Finding, Golden
from fgclip2_train.parity.steps import TERMS

_NOISE = ("float32", "bfloat16")
"""The same numbers of the official program in other precisions: to judge by, no targets."""
_CASES = ("two_rank", "edge_cases", "synthetic")
_STEP = {*TERMS, "total", "hard_block", "delta", "threshold_before", "threshold_after"}
_MEANS = {"mean_L_sig_short", "mean_L_sig_long", "mean_total", "grad_norms_of_rank_mean"}
_BATCH = {f"{kind}_{what}" for kind in ("box", "hard") for what in ("texts", "infos", "nums")}
_PICTURES = ("spatial_shapes", "pixel_attention_mask", "pixels_u8", "rows", "row_pixels")


def not_compared(folder: Path, files: Iterable[str], findings: list[Finding]) -> list[str]:
    """File and name of each such thing. `files` are those that are read, `findings` what was compared: all of a folder's."""
    golden = Golden(folder)
    others = sorted(file.name for file in folder.iterdir() if file.suffix in (".json", ".safetensors"))
    compared = {item.name for item in findings}
    groups, synthetic = golden.json("images")["groups"], golden.json("expected")["synthetic"]
    tensors = {
        "batch": _BATCH | {"text_short", "text_long", "text_long_flag"},
        "images": {"value_table"} | {f"{group['name']}.{kind}" for group in groups for kind in _PICTURES},
        "expected": compared,
        "synthetic": {f"{case['name']}.{side}" for case in synthetic for side in ("text", "region")},
    }
    return [
        *(name for name in others if name not in files),
        *(f"config.json: loss_weights {name}" for name in _other(golden.json("config")["loss_weights"], _weights())),
        *(f"{file}.safetensors: {name}" for file, known in tensors.items() for name in _other(golden.tensors(file), known)),
        *(f"expected.json: {name}" for name in _numbers(golden)),
    ]


def _weights() -> set[str]:
    return {LOSS_NAMES.get(name, name) for name in Weights.model_fields}


def _other(values: Iterable[str], known: Iterable[str]) -> list[str]:
    return sorted(set(values) - set(known))


def _numbers(golden: Golden) -> Iterator[str]:
    """Of expected.json; a text says something of numbers and is none."""
    expected, parameters = golden.json("expected"), set(golden.tensors("weights"))

    def other(place: str, values: dict[str, Any], known: set[str]) -> Iterator[str]:
        yield from (f"{place} {name}".strip() for name in _other(values, known) if not isinstance(values[name], str))

    steps = {name for name in expected if name.startswith("threshold_")}
    yield from other("", expected, {*steps, *_CASES, *_NOISE, "named_gradients"})
    for step in sorted(steps):
        yield from other(step, expected[step], _STEP | {"grad_norms"})
        yield from other(f"{step} grad_norms", expected[step]["grad_norms"], parameters)
    for case in expected["edge_cases"]:
        official = {name for name in case if name.startswith("official_")}  # what its catch-all leaves, which is not to be met
        yield from other(case["name"], case, {"box_nums", "hard_nums", "threshold_before", "expected"} | official)
        yield from other(case["name"], case["expected"], _STEP)
    for case in expected["synthetic"]:
        yield from other(case["name"], case, {"tic", "logit_scale_hardneg", "by_threshold", "delta", "threshold_after"})
        for threshold, values in case.get("by_threshold", {}).items():
            yield from other(f"{case['name']} at {threshold}", values, {*TERMS, "block"})
    for name, case in expected["two_rank"].items():
        yield from other(name, case, {"per_rank", "threshold_before"} | _MEANS)
        yield from other(f"{name} grad_norms_of_rank_mean", case["grad_norms_of_rank_mean"], parameters)
        for rank, values in enumerate(case["per_rank"]):
            yield from other(f"{name} rank {rank}", values, _STEP | {"rank", "images"})
