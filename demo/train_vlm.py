"""Train the tiny Qwen2.5-VL that sees rendered scenes and answers the project's prompts.

    python -m demo.train_vlm --out runs/vlm --steps 5000                       2 CPU cores, in the background
    python -m demo.train_vlm --out runs/vlm --shape large --pixels 50176 --scenes 96 --questions 4 --texts 64 --steps 6000     a GPU

Every step shows ever-new scenes of one size. A head on the visual tokens is trained jointly with the answers: without it the
model learns to write before it learns to see. And one attention head of two layers each is told where to look, the last but one
from a phrase to the thing that it names, the last from a coordinate to the phrase that it answers: without that the boxes are
those of things beside. The state is saved at intervals, at SIGTERM and at Ctrl-C; the same command goes on from
there with the very next batch.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from demo import seeing
from demo.model import build, save
from demo.school import INTEGERS, School, make_tokenizer
from fgclip2_train.memory import keep_memory

SHAPES = {
    "small": {"hidden": 192, "layers": 4, "heads": 6, "vision_hidden": 128, "vision_depth": 6},
    "large": {"hidden": 256, "layers": 5, "heads": 8, "vision_hidden": 160, "vision_depth": 6},
}
"""3.2 and 5.8 million parameters."""


class Trained(torch.nn.Module):
    """The model, the heads that are trained with it, and what the losses must know of its tokens."""

    def __init__(self, model: Any, tokenizer: Any, hidden: int) -> None:
        super().__init__()
        self.model, self.head, self.notes = model, seeing.Head(hidden), seeing.NoteHead(hidden)
        self.places = seeing.Places(hidden)
        self.image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        numbers = tokenizer.convert_tokens_to_ids([str(number) for number in range(INTEGERS)])
        self.numbers: torch.Tensor
        self.register_buffer("numbers", torch.tensor(numbers), persistent=False)
        self.verdicts = [tokenizer.convert_tokens_to_ids(text) for text in ("true", "false")]

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        """Loss of the answers, loss of the heads, and the heads' accuracies (in evaluation mode)."""
        seen = seeing.look(self.model, batch["pictures"])
        rows, columns = (side // seeing.CELL for side in batch["pictures"].shape[1:3])
        centres = seeing.centres(rows, columns).to(seen.device)
        auxiliary, marks = self.head(seen, batch["facts"], batch["boxes"], centres, batch["scene"])
        shown = len(batch["owner"])
        total = torch.zeros((), device=seen.device)
        count = torch.zeros((), device=seen.device)
        right = torch.zeros((), device=seen.device)
        misplaced = torch.zeros((), device=seen.device)
        astray = torch.zeros(2, device=seen.device)
        glanced = torch.zeros(2, device=seen.device)
        noted, notes = [], []
        # Rows come sorted by length: the shorter half, the longer half, and those without a picture are padded by themselves.
        for part in (slice(0, shown // 2), slice(shown // 2, shown), slice(shown, len(batch["ids"]))):
            if part.start == part.stop:
                continue
            length = int((batch["targets"][part] >= 0).any(0).nonzero().max()) + 1
            ids, targets = batch["ids"][part, :length], batch["targets"][part, :length]
            visual = seen[batch["owner"][part]] if part.stop <= shown else None
            places = batch["places"][:, part, :length]
            layers = seeing.read(self.model, ids, places, visual, self.image)
            wanted = targets >= 0
            likely = F.log_softmax(self.model.lm_head(layers[-1][wanted]).float(), -1)
            total = total + self._missed(likely, targets[wanted], batch["coordinates"][part, :length][wanted])
            count = count + wanted.sum()
            right = right + (likely.argmax(-1) == targets[wanted]).sum()
            # Of each note: row, token, the token to look back at, truth, five facts, place in a list, box.
            mine = batch["notes"][(batch["notes"][:, 0] >= part.start) & (batch["notes"][:, 0] < part.stop)]
            row, token = mine[:, 0].long() - part.start, mine[:, 1].long()
            noted.append(layers[-2][row, token])
            notes.append(mine[:, 3:])
            back = mine[:, 2] >= 0
            looks = seeing.glances(self.model, len(layers) - 2, layers[-2], places, row[back], token[back])
            astray[0] -= looks.gather(1, mine[back, 2:3].long()).sum()
            glanced[0] += back.sum()
            if visual is not None:
                owner = batch["owner"][part]
                at = layers[len(layers) // 2][ids == self.image].view(visual.shape)
                misplaced = misplaced + self.places(at, batch["facts"][owner], batch["boxes"][owner])
                found = (mine[:, 10] >= 0) & (mine[:, 3] == 1)
                row, token, box = row[found], token[found], mine[found, None, 10:]
                whose = owner[row]
                there = (batch["facts"][whose][..., 0] >= 0) & (batch["boxes"][whose][..., 4:] == box).all(-1)
                wanted_there = (ids[row] == self.image).masked_scatter(ids[row] == self.image, there)
                looks = seeing.glances(self.model, len(layers) - 3, layers[-3], places, row, token)
                astray[1] += seeing.missed(looks, wanted_there)
                glanced[1] += len(row)
        astray = astray / glanced.clamp(min=1)
        known, more = self.notes(torch.cat(noted), torch.cat(notes))
        if not self.training:
            marks |= more | {"placed": seeing.SIDE * float(misplaced) / 2, "tokens": float(right / count)}
            marks |= {"missed line": float(astray[0]), "missed thing": float(astray[1])}
        return total / count, auxiliary + known + 12 * misplaced + 0.5 * astray[0] + 2 * astray[1], marks

    def _missed(self, likely: torch.Tensor, targets: torch.Tensor, coordinate: torch.Tensor) -> torch.Tensor:
        """Cross-entropy, summed. A coordinate may be missed by a pixel or two; a verdict weighs as much as several words."""
        missed = -likely.gather(1, targets[:, None])[:, 0]
        weight = 1 + 2 * torch.isin(targets, torch.tensor(self.verdicts, device=targets.device)).float()
        values = torch.arange(INTEGERS, device=targets.device)
        truth = torch.eq(targets[coordinate][:, None], self.numbers).float() @ values.float()
        near = (-0.5 * ((values - truth[:, None]) / 1.5) ** 2).softmax(-1)
        soft = -(near * likely[coordinate][:, self.numbers]).sum(-1)
        return (missed * weight)[~coordinate].sum() + soft.sum()


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        keep_memory()
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    shape = SHAPES[options.shape]
    model = build(tokenizer, **shape, seed=options.seed, all_attend=True, theta=1e4)
    model.model.language_model.config._attn_implementation = "plain"
    trained = Trained(model, tokenizer, shape["hidden"]).to(device).train()
    parameters = list(trained.parameters())
    decays = [[p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]]
    groups = [{"params": part, "weight_decay": decay} for part, decay in zip(decays, (0.05, 0.0), strict=True)]
    optimizer = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98), fused=True)
    state = options.out / "state.pt"
    step = 0
    if state.exists():
        saved = torch.load(state, map_location=device, weights_only=True)
        trained.load_state_dict(saved["trained"])
        optimizer.load_state_dict(saved["optimizer"])
        step = int(saved["step"])
    amount = options.scenes, options.questions, options.texts
    test = move(School(tokenizer, *amount, options.seed + 99, options.pixels).batch(7), device)
    school = School(tokenizer, *amount, options.seed, options.pixels, first=step)
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens, {device}, step {step}", flush=True
    )
    loader = torch.utils.data.DataLoader(
        school, batch_size=None, num_workers=options.workers, pin_memory=device == "cuda",
        prefetch_factor=3 if options.workers else None, worker_init_fn=_deaf,
    )  # fmt: skip

    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopped.append(number))
    said = saved_at = time.monotonic()
    begun, waited, first = time.monotonic(), 0.0, step
    autocast = torch.autocast(device, torch.bfloat16)
    batches = iter(loader)
    while step < options.steps and not stopped:
        rate = options.rate * min(1, (step + 1) / 200) * min(1, (options.steps - step) / (0.25 * options.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        asked = time.monotonic()
        batch = move(next(batches), device)
        waited += time.monotonic() - asked
        with autocast:
            answers, auxiliary, _ = trained(batch)
            loss = answers + options.auxiliary * auxiliary
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if time.monotonic() - said > options.every or step == options.steps:
            said = time.monotonic()
            _report(
                options.out,
                step,
                first,
                said - begun,
                waited,
                answers.item(),
                *_unseen(trained, test, autocast),
            )
        if time.monotonic() - saved_at > options.save_every:
            _keep(options.out, trained, optimizer, step, tokenizer)
            saved_at = time.monotonic()
    _keep(options.out, trained, optimizer, step, tokenizer)
    print(f"step {step} of {options.steps}; wrote {options.out / 'model'}", flush=True)


def _deaf(_: int) -> None:
    """Whatever tells the whole process group to stop is for the trainer alone, which then ends its workers in good order."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _unseen(trained: Trained, test: dict[str, torch.Tensor], autocast: Any) -> tuple[float, dict[str, float]]:
    """Loss of the answers and accuracies of the head on scenes that are never trained on."""
    trained.eval()
    with torch.no_grad(), autocast:
        answers, _, marks = trained(test)
    trained.train()
    return float(answers), marks


def _report(
    out: Path, step: int, first: int, seconds: float, waited: float, trained: float, unseen: float, marks: dict[str, float]
) -> None:
    line = {
        "step": step,
        "seconds_per_step": round(seconds / (step - first), 3),
        "waiting_for_data": round(waited / seconds, 3),
    }
    line |= {"answers": round(trained, 4), "unseen": round(unseen, 4)} | {
        name: round(value, 3) for name, value in marks.items()
    }
    print(json.dumps(line), flush=True)
    with open(out / "log.jsonl", "a") as log:
        log.write(json.dumps(line) + "\n")


def _keep(out: Path, trained: Trained, optimizer: Any, step: int, tokenizer: Any) -> None:
    """Save the state to go on from, and the model as it is served."""
    part = out / "state.part"
    torch.save({"trained": trained.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, part)
    os.replace(part, out / "state.pt")
    export(trained.model, tokenizer, out / "model")


def move(batch: dict[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def export(model: Any, tokenizer: Any, out: Path) -> None:
    """Write the model (bfloat16, without the head) and its tokenizer, whole or not at all."""
    part = out.with_name(f".{out.name}-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    save(copy.deepcopy(model).cpu(), tokenizer, part)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(part, out)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.train_vlm", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--steps", type=int, required=True, help="end after so many steps; the rate falls over the last quarter"
    )
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--pixels", type=int, default=28_224, help="the client's pixel budget")
    parser.add_argument("--scenes", type=int, default=16, help="pictures of a step")
    parser.add_argument("--questions", type=int, default=2, help="about each picture")
    parser.add_argument("--texts", type=int, default=8, help="questions about texts alone, of a step")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--auxiliary", type=float, default=0.5, help="weight of the heads' loss")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 1), help="processes that draw")
    parser.add_argument("--threads", type=int, default=0, help="of the trainer, on a CPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=60, help="seconds between reports")
    parser.add_argument("--save-every", type=float, default=300, help="seconds between saved states")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    train(options)


if __name__ == "__main__":
    main()
