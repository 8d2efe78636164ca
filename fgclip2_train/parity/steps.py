"""Losses, gradients and the threshold of whole steps: both thresholds, small counts, made-up features, two processes."""

from __future__ import annotations

import math
import socket
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

from fgclip2_train import losses
from fgclip2_train.objective import Terms, compute
from fgclip2_train.parity.golden import Finding, Golden, Stored, furthest

TERMS = {
    "L_sig_short": "short",
    "L_sig_long": "long",
    "fgv": "fgv",
    "tic": "tic",
    "hard_A": "hard_batch",
    "hard_G": "hard_group",
    "hard_C": "hard_rank",
}
OF_REGIONS, OF_GROUPS = ("fgv", "tic"), ("hard_A", "hard_G", "hard_C", "delta")
ROUND_OFF = 1e-10
"""What a gradient's norm is below where the gradient is zero."""
SLIGHT = 1e-3
"""Share of the whole gradient's norm. A norm below it, mostly a temperature's, is what is left of much larger terms that cancel, of
which float32 has only the first digits: its deviation counts relative to this share."""


def check_step(golden: Golden, key: str, dtype: torch.dtype, loss: float, gradient: float, area: str) -> list[Finding]:
    """One step at the stored threshold: terms, total, threshold, the norm of every gradient and the stored gradients."""
    expected = golden.json("expected")[key]
    model = golden.model(dtype)
    model.rank_threshold.fill_(expected["threshold_before"])
    batch = golden.batch()
    terms = compute(model(batch), batch, model, golden.settings)
    terms.total.backward()
    findings = compare_terms(terms, expected, loss, area)
    findings += compare_norms(model, expected["grad_norms"], gradient, area)
    if expected["threshold_before"] == 0 and dtype == torch.float64:
        gradients = dict(model.named_parameters())
        for name, theirs in golden.tensors("expected").items():
            if name.startswith("grad."):
                ours = gradients.get(name.removeprefix("grad."), torch.tensor(())).grad
                missing = torch.full_like(theirs, torch.nan)
                findings.append(Finding(area, name, furthest(missing if ours is None else ours, theirs), loss))
    return findings


def compare_terms(terms: Terms, expected: Stored, tolerance: float, area: str) -> list[Finding]:
    """What the step is about must be there to compare with; of regions and groups that it has none of, numbers may be left out."""
    ours = {theirs: terms.values[name] for theirs, name in TERMS.items() if name in terms.values}
    ours |= {"total": terms.total, "threshold_after": terms.threshold}
    if "hard_batch" in terms.values:
        block = _block(*(terms.values[name] for name in ("hard_batch", "hard_group", "hard_rank")))
        ours |= {"hard_block": block, "delta": terms.margin}
    free = {"hard_block"} | set(() if terms.regions else OF_REGIONS) | set(() if terms.groups else OF_GROUPS)
    return [
        Finding(area, name, abs(value.item() - expected.number(name)), tolerance)
        for name, value in ours.items()
        if name not in free or expected.get(name) is not None
    ]


def _block(batch: Tensor, group: Tensor, rank: Tensor) -> Tensor:
    """Of the three hard-negative terms, as the released program adds them up before it weighs them."""
    return 0.6 * batch + 3 * group + 0.4 * rank


def compare_norms(model: nn.Module, expected: dict[str, float | None], tolerance: float, area: str) -> list[Finding]:
    """Relative deviation of every gradient's norm; of one that is zero but for round-off, as the key biases', the plain one."""
    findings = []
    least = SLIGHT * math.hypot(*(norm for norm in expected.values() if norm))
    for name, parameter in model.named_parameters():
        ours = parameter.grad.norm().item() if parameter.grad is not None else 0.0
        theirs = expected[name] or 0.0
        if theirs > ROUND_OFF:
            findings.append(Finding(area, f"|grad {name}|", abs(ours - theirs) / max(theirs, least), tolerance))
        else:
            findings.append(Finding(area, f"|grad {name}| = 0", abs(ours - theirs), tolerance))
    return findings


def check_edges(golden: Golden, tolerance: float) -> list[Finding]:
    """The same batch with fewer valid slots, down to none."""
    findings = []
    for case in golden.json("expected").cases("edge_cases"):
        model = golden.model(torch.float64)
        model.rank_threshold.fill_(case["threshold_before"])
        batch = golden.batch(box_nums=case["box_nums"], hard_nums=case["hard_nums"])
        terms = compute(model(batch), batch, model, golden.settings)
        terms.total.backward()
        area = "edge cases"
        findings += [
            Finding(area, f"{case['name']} {item.name}", item.deviation, item.tolerance)
            for item in compare_terms(terms, case["expected"], tolerance, area)
        ]
        bad = sum(not p.grad.isfinite().all().item() for p in model.parameters() if p.grad is not None)
        findings.append(Finding(area, f"{case['name']} gradients that are not finite", float(bad), 0.0))
    return findings


def check_synthetic(golden: Golden, tolerance: float) -> list[Finding]:
    """Losses on made-up features."""
    stored, findings, area = golden.tensors("synthetic"), [], "synthetic"
    settings = golden.settings
    for case in golden.json("expected").cases("synthetic"):
        name = case["name"]
        text = stored[f"{name}.text"]
        if "tic" in case:
            everything = torch.ones(len(text), dtype=torch.bool)
            value = losses.text_intra_modal(
                text, everything, remove_above=settings.tic_remove_above, hardest=settings.tic_hardest
            )
            findings.append(Finding(area, f"{name} tic", abs(value.item() - case.number("tic")), tolerance))
            continue
        region = stored[f"{name}.region"]
        everything = torch.ones(len(region), dtype=torch.bool)
        scale = torch.tensor(case["logit_scale_hardneg"], dtype=torch.float64).exp()
        for threshold, expected in case.cases("by_threshold").items():
            start = torch.tensor(float(threshold), dtype=torch.float64)
            hard = losses.hard_negatives(region, text.view(len(region), -1, text.shape[-1]), scale, start, everything)
            ours = {
                "hard_A": hard.batch,
                "hard_G": hard.group,
                "hard_C": hard.rank,
                "block": _block(hard.batch, hard.group, hard.rank),
            }
            for term, value in ours.items():
                findings.append(
                    Finding(area, f"{name} {term} at {threshold}", abs(value.item() - expected.number(term)), tolerance)
                )
            after = losses.next_threshold(hard.margin, everything.sum(), start, clamp=settings.threshold_clamp)
            findings.append(Finding(area, f"{name} delta", abs(hard.margin.item() - case.number("delta")), tolerance))
            findings.append(Finding(area, f"{name} threshold", abs(after.item() - case.number("threshold_after")), tolerance))
    return findings


# -- two processes ------------------------------------------------------------------------------------------------------------


def check_two_ranks(golden: Golden, loss: float, gradient: float) -> list[Finding]:
    """Every stored case in as many real processes as it has ranks, joined by gloo, gradients averaged as DDP averages them."""
    cases = golden.json("expected").cases("two_rank")
    findings: list[Finding] = []
    for world in sorted({len(case["per_rank"]) for case in cases.values()}):
        findings += _in_processes(world, golden.folder, loss, gradient)
    unseen = [name for name in cases if not any(item.name.startswith(f"{name} rank ") for item in findings)]
    return [*findings, Finding("two ranks", "cases not run", float(len(unseen)), 0.0)]


def _in_processes(world: int, folder: Path, loss: float, gradient: float) -> list[Finding]:
    """The cases of that many ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = multiprocessing.get_context("spawn").SimpleQueue()
    context = multiprocessing.start_processes(
        _rank_main,
        args=(world, port, str(folder), loss, gradient, results),
        nprocs=world,
        join=False,
        start_method="spawn",
    )
    findings: list[Finding] = []
    while not context.join(timeout=0.1):
        while not results.empty():
            findings += results.get()
    while not results.empty():
        findings += results.get()
    return findings


def _rank_main(rank: int, world: int, port: int, folder: str, loss: float, gradient: float, results) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    try:
        golden = Golden(Path(folder))
        for name, case in golden.json("expected")["two_rank"].items():
            if len(case["per_rank"]) == world:
                results.put(_rank_case(golden, name, case, rank, loss, gradient))
                dist.barrier()
    finally:
        dist.destroy_process_group()


def _rank_case(golden: Golden, name: str, case: Stored, rank: int, loss: float, gradient: float):
    area, expected = "two ranks", case["per_rank"][rank]
    ranks = case["per_rank"]
    boxes, hard = (any(key in one for one in ranks) for key in ("fgv", "hard_G"))
    none = [0] * len(golden.tensors("batch")["box_nums"])
    batch = golden.batch(expected["images"], None if boxes else none, None if hard else none)
    model = golden.model(torch.float64)
    model.rank_threshold.fill_(case["threshold_before"])
    terms = compute(model(batch, regional=boxes or hard), batch, model, golden.settings)
    terms.total.backward()
    for parameter in model.parameters():
        gradient_of = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        dist.all_reduce(gradient_of)
        parameter.grad = gradient_of / len(ranks)
    means: dict[str, Tensor] = {}
    for key, value in (("L_sig_short", terms.values["short"]), ("L_sig_long", terms.values["long"]), ("total", terms.total)):
        mean = value.detach().clone()
        dist.all_reduce(mean)
        means[f"mean_{key}"] = mean / len(ranks)
    found = compare_terms(terms, expected, loss, area)
    found += [Finding(area, key, abs(mean.item() - case.number(key)), loss) for key, mean in means.items()]
    found += compare_norms(model, case["grad_norms_of_rank_mean"], gradient, area)
    return [Finding(area, f"{name} rank {rank} {item.name}", item.deviation, item.tolerance) for item in found]
