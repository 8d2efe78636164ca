"""One optimizer step against the same step written plainly: time and peak memory, same weights, same batch, in turns.

    python benchmarks/train_step.py [--images 2] [--rounds 3] [--size base] [--patches 576] [--precision bf16] [--device cpu]

The plain step is what one writes first, in its own words: the vision tower pools image after image, resizes positions
image after image, pools boxes image after image (once for captions, once for hard groups), the dense head is a
MultiheadAttention with a full mask per head that also returns its weights, every one of four box slots is encoded
whether it holds a box or not (`--regions` says how many do), the positive of a hard group is encoded once more,
padding masks are full [T, T] ones, long texts go through their tower apart from the others, heads run text after text, and the
sigmoid loss keeps its logits, labels and log-sigmoids. Layers of the towers are transformers' own in both, but for attention
and GELU in ours. `--plain-precision fp32` beside `--precision bf16` asks what autocast and all the rest are worth together;
else both sides have the same.

Each side is a process of its own, ours with its memory kept as `train` keeps it on a CPU. Both take turns; two rounds are
not counted, for in the first ones the optimizer's state is made and memory is asked of the system. Memory is what the
steps add at their peak to what was resident before the first (on a GPU the allocator's peak), gradients and the
optimizer's state included, which are the same for both.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align
from transformers.models.siglip2.modeling_siglip2 import Siglip2EncoderLayer, Siglip2MLP

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fgclip2_train.batch import TEXTS_PER_GROUP, Batch, pack_phrases, pad_rows
from fgclip2_train.config import validate
from fgclip2_train.flops import layer_flops, step_flops, text_flops
from fgclip2_train.memory import keep_memory
from fgclip2_train.model import Fgclip2Model
from fgclip2_train.model.attention import NAME
from fgclip2_train.model.configuration import FAMILY, sized
from fgclip2_train.optim import make_optimizer
from fgclip2_train.step import Stepper

SLOTS = 4
UNCOUNTED = 2
WIDTH_OF_A_TEXT = {"short": 16, "long": 140, "phrase": 9}
"""Tokens before the padding; padding is computed like any other token."""


def make_batch(
    images: int,
    patches: int,
    regions_per_image: float,
    groups_per_image: float,
    lengths: tuple[int, int],
    vocabulary: int,
    multiple: int,
):
    """A batch whose pictures have four box slots, and its phrases slot by slot and group by group as the plain step wants them."""
    random = torch.Generator().manual_seed(0)
    side = int(patches**0.5)
    grid = torch.tensor([(side, side), (side - 4, patches // (side - 4)), (patches // (side - 2), side - 2)])
    grid = grid[torch.arange(images) % 3]
    corner = torch.rand(images, SLOTS, 2, generator=random) * 0.6
    boxes = torch.cat([corner, corner + 0.1 + 0.3 * torch.rand(images, SLOTS, 2, generator=random)], dim=-1)

    def ids(count: int, kind: str) -> Tensor:
        length = lengths[kind == "long"]
        rows = torch.randint(5, vocabulary, (count, length), generator=random)
        return rows.masked_fill(torch.arange(length) >= WIDTH_OF_A_TEXT[kind], 0)

    count = round(images * regions_per_image)
    groups = round(images * groups_per_image)
    filled = torch.randperm(images * SLOTS, generator=random)[:count]
    captions, negatives = ids(images * SLOTS, "phrase"), ids(10 * groups, "phrase").view(groups, 10, -1)
    hard_slot, filled = filled[:groups].sort().values, filled.sort().values
    empty = torch.ones(images * SLOTS, dtype=torch.bool).index_fill(0, filled, False)
    captions[empty], boxes.view(-1, 4)[empty] = 0, 0  # nothing but padding, which is a text all the same
    # A region's caption is its short expression, which is also its group's positive, half of the time.
    positives = torch.where(torch.rand(groups, 1, generator=random) < 0.5, captions[hard_slot], ids(groups, "phrase"))
    hard = torch.cat([positives[:, None], negatives], dim=1)
    phrases, region_phrase, hard_phrases = pack_phrases(captions[filled], hard, multiple)
    batch = Batch(
        patches=torch.randint(0, 256, (images, patches, 768), dtype=torch.uint8, generator=random),
        grid=grid,
        short=ids(images, "short"),
        long=ids(images, "long"),
        picture=torch.arange(images),
        text=torch.arange(images)[:, None].expand(-1, 2),
        boxes=boxes,
        phrases=phrases,
        region_slot=pad_rows(filled, multiple),
        region_phrase=pad_rows(region_phrase, multiple),
        region_language=pad_rows(torch.zeros(count, dtype=torch.int64), multiple),
        region_valid=pad_rows(torch.ones(count, dtype=torch.bool), multiple),
        hard_slot=pad_rows(hard_slot, multiple),
        hard_phrases=pad_rows(hard_phrases, multiple),
        hard_valid=pad_rows(torch.ones(groups, dtype=torch.bool), multiple),
        extent=-(-int(grid.max()) // 16) * 16,
    )
    return batch, captions, hard


class Plain:
    """The step as the module's docstring describes it, on the weights of `model`."""

    def __init__(self, model: Fgclip2Model, batch: Batch, captions: Tensor, hard: Tensor, optimizer, precision: str):
        self.model, self.batch, self.captions, self.hard, self.optimizer = model, batch, captions, hard, optimizer
        self.precision, self.threshold = precision, 0.0

    def __call__(self) -> float:
        configs = self.model.config.vision, self.model.config.text
        for config in configs:
            config._attn_implementation = "sdpa"
        try:
            with torch.autocast(self.batch.patches.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                total = self.loss()
        finally:
            for config in configs:
                config._attn_implementation = NAME
        total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total.item()

    def loss(self) -> Tensor:
        model, batch = self.model, self.batch
        tokens, mask = self.vision()
        image = F.normalize(self.pool(tokens), dim=-1)
        short = F.normalize(self.text(batch.short, model.text_model.head), dim=-1)
        long = F.normalize(self.text(batch.long, model.longtext_head, long=True), dim=-1)
        total = self.sigmoid(image, long) + self.sigmoid(image, short)

        dense = self.dense(tokens, mask)
        filled = batch.region_slot[batch.region_valid]
        region = F.normalize(self.align(dense, batch.boxes), dim=-1)[filled]
        caption = F.normalize(self.text(self.captions, model.boxtext_head), dim=-1)[filled]
        valid = batch.hard_slot[batch.hard_valid]
        hard_region = F.normalize(self.align(dense, batch.boxes), dim=-1)[valid]
        texts = F.normalize(self.text(self.hard.flatten(0, 1), model.boxtext_head), dim=-1).view(
            len(valid), TEXTS_PER_GROUP, -1
        )

        logits = model.logit_scale_finegraind.exp() * region @ caption.T
        diagonal = torch.arange(len(logits), device=logits.device)
        total = total + 0.2 * (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)) / 2
        similarity = caption @ caption.T
        similarity = similarity.masked_fill(torch.eye(len(caption), dtype=torch.bool, device=caption.device), 0)
        similarity = similarity.masked_fill(similarity > 0.95, 0)
        total = total + 0.1 * similarity.topk(min(10, len(caption)), dim=1).values.exp().sum(1).log().mean()

        beta, groups = model.logit_scale_hardneg.exp(), torch.arange(len(valid), device=logits.device)
        everything = beta * hard_region @ torch.cat([texts[:, 0], texts[:, 1:].flatten(0, 1)]).T
        backwards = beta * texts[:, 0] @ hard_region.T
        own = beta * (hard_region[:, None] * texts).sum(-1)
        a = (F.cross_entropy(everything, groups) + F.cross_entropy(backwards, groups)) / 2
        g = F.cross_entropy(own, torch.zeros_like(groups))
        c = F.relu(self.threshold + own[:, 1:] - own[:, :1]).mean()
        return total + 0.3 * a + 1.5 * g + 0.2 * c

    def vision(self) -> tuple[Tensor, Tensor]:
        batch, tower = self.batch, self.model.vision_model
        pixels = self.model.pixels(batch.patches, batch.grid)
        count = batch.patches.shape[1]
        table = tower.embeddings.position_embedding.weight
        square = table.unflatten(0, (16, 16)).permute(2, 0, 1)[None]
        positions = torch.empty(len(batch), count, table.shape[1], dtype=table.dtype, device=table.device)
        mask = torch.zeros(len(batch), count, device=table.device)
        for index in range(len(batch)):
            rows, columns = batch.grid[index].tolist()
            resized = F.interpolate(square, size=(rows, columns), mode="bilinear", align_corners=False, antialias=True)
            resized = resized.flatten(2)[0].T
            positions[index, : rows * columns] = resized
            positions[index, rows * columns :] = resized[0]
            mask[index, : rows * columns] = 1
        hidden = tower.embeddings.patch_embedding(pixels) + positions
        full = (1 - mask[:, None, None].expand(-1, 1, count, -1)) * torch.finfo(hidden.dtype).min
        hidden = tower.encoder(hidden, attention_mask=full).last_hidden_state
        return tower.post_layernorm(hidden), mask

    def pool(self, tokens: Tensor) -> Tensor:
        head = self.model.vision_model.head
        pooled = []
        for index in range(len(tokens)):
            count = int(self.batch.grid[index].prod().item())
            seen = tokens[index : index + 1, :count]
            mixed = head.attention(head.probe, seen, seen)[0]
            pooled.append((mixed + head.mlp(head.layernorm(mixed)))[:, 0])
        return torch.cat(pooled)

    def dense(self, tokens: Tensor, mask: Tensor) -> Tensor:
        head, count = self.model.dense_feature_head, tokens.shape[1]
        full = (1 - mask[:, None, None].expand(-1, head.num_heads, count, -1)) * torch.finfo(tokens.dtype).min
        mixed = head.attention(tokens, tokens, tokens, attn_mask=full.reshape(-1, count, count))[0]
        return mixed + head.mlp(head.layernorm(mixed))

    def align(self, dense: Tensor, boxes: Tensor) -> Tensor:
        vectors = []
        for index in range(len(dense)):
            rows, columns = self.batch.grid[index][0].item(), self.batch.grid[index][1].item()
            picture = dense[index, : rows * columns].T.reshape(1, -1, rows, columns)
            scaled = boxes[index] * torch.tensor([columns, rows, columns, rows], device=boxes.device)
            vectors.append(roi_align(picture, [scaled], 1, spatial_scale=1.0, sampling_ratio=-1, aligned=True).flatten(1))
        return torch.cat(vectors)

    def text(self, ids: Tensor, head, long: bool = False) -> Tensor:
        tower = self.model.text_model
        hidden = tower.embeddings(ids, long)
        for layer in tower.encoder.layers:  # every layer over all positions
            hidden = Siglip2EncoderLayer.forward(layer, hidden, None)
        pooled = tower.final_layer_norm(hidden)[:, -1]
        return torch.cat([head(row[None]) for row in pooled])

    def sigmoid(self, image: Tensor, text: Tensor) -> Tensor:
        logits = image @ text.T * self.model.logit_scale.exp() + self.model.logit_bias
        labels = 2 * torch.eye(len(image), device=image.device) - 1
        return -F.logsigmoid(labels * logits).sum() / len(image)


def plain_flops(config, batch: Batch, hard: Tensor) -> float:
    """The plain step's matrix products, counted as `step_flops` counts ours, but every text as often as it is said and all of every
    layer. The ratio of both is what a machine shows that does nothing but multiply: no writing of the same step goes below ours."""
    text, short, long = config.text, hard.shape[-1], batch.long.shape[1]
    ours = text_flops(text, len(batch) + batch.distinct_phrases, short) + text_flops(text, len(batch), long)
    said = len(batch) * (1 + SLOTS) + hard.shape[0] * hard.shape[1]
    plain = sum(
        text.num_hidden_layers * layer_flops(count * length, length, text.hidden_size, text.intermediate_size)
        for count, length in ((said, short), (len(batch), long))
    )
    return step_flops(config, batch, True) + 3 * (plain - ours)


def resident(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def build(side: str, arguments: argparse.Namespace) -> tuple[Callable[[], float], dict[str, float]]:
    """A side's step, which gives its loss, and what is known of the work beforehand: both sides build the same weights and batch."""
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    shape = FAMILY[arguments.size] | ({"layers": arguments.layers} if arguments.layers else {})
    model = Fgclip2Model(sized(**shape, vocabulary=arguments.vocabulary))
    with torch.no_grad():
        model.logit_scale.fill_(2.3)
        model.logit_bias.fill_(-10.0)
    torch.nn.Module.to(model, device)
    model.freeze_unused(regional=True)
    model.train()
    batch, captions, hard = make_batch(
        arguments.images,
        arguments.patches,
        arguments.regions,
        arguments.groups,
        model.lengths,
        arguments.vocabulary,
        arguments.pad,
    )
    batch = batch.to(device)
    known = {
        "phrases": len(batch.phrases),
        "ours": step_flops(model.config, batch, True),
        "plain": plain_flops(model.config, batch, hard),
    }
    if side == "plain":
        for block in model.modules():
            if isinstance(block, Siglip2MLP):
                block.activation_fn = torch.nn.GELU("tanh")
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-6, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.001)
        return Plain(model, batch, captions.to(device), hard.to(device), optimizer, arguments.plain_precision), known
    settings = validate(
        {"stage": 2, "out": "-", "steps": 10**6, "precision": arguments.precision, "optimizer": {"lr": 1e-6, "warmup": 0}},
        "benchmark",
    )
    if arguments.compile:
        model.compile_layers()
    stepper = Stepper(model, model, make_optimizer(model, settings.optimizer), settings, settings.steps)
    return lambda: stepper(0, [batch]).terms.total.item(), known


def take_turns(side: str, arguments: argparse.Namespace, other: Connection) -> None:
    """A side's process: tells what is known, then for every word that comes makes a step and tells its loss, its seconds, and the bytes
    that steps have added at most."""
    on_gpu = arguments.device.startswith("cuda")
    if side == "ours" and not on_gpu:
        keep_memory()
    step, known = build(side, arguments)
    other.send(known)
    clock = time.perf_counter if on_gpu else time.process_time  # other work on the machine does not count
    before = torch.cuda.memory_allocated() if on_gpu else resident("VmRSS")
    while other.recv():
        started = clock()
        loss = step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds = clock() - started
        peak = torch.cuda.max_memory_allocated() if on_gpu else resident("VmHWM")
        other.send((loss, seconds, peak - before))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="base")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--patches", type=int, default=576)
    parser.add_argument("--regions", type=float, default=4.0, help="regions per picture, of four slots; FineHARD has 3.3")
    parser.add_argument("--groups", type=float, default=4.0, help="hard groups per picture; FineHARD has 0.83")
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast")
    parser.add_argument("--plain-precision", choices=["fp32", "bf16"], help="of the plain side; default: the same")
    parser.add_argument("--layers", type=int, help="fewer layers than the size has, for a quick look")
    parser.add_argument("--compile", action="store_true", help="compile the layers of ours")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pad", type=int, default=1, help="regions, groups and phrases of ours are padded to this multiple")
    arguments = parser.parse_args()
    arguments.plain_precision = arguments.plain_precision or arguments.precision

    context = multiprocessing.get_context("spawn")
    sides = {}
    for side in ("plain", "ours"):
        here, there = context.Pipe()
        context.Process(target=take_turns, args=(side, arguments, there), daemon=True).start()
        sides[side] = here
    known, _ = (here.recv() for here in sides.values())
    seen: dict[str, list[tuple[float, float, int]]] = {side: [] for side in sides}
    for _ in range(UNCOUNTED + arguments.rounds):
        for side, here in sides.items():
            here.send(True)
            seen[side].append(here.recv())
    for here in sides.values():
        here.send(False)
    first = {side: rounds[0][0] for side, rounds in seen.items()}
    print(
        f"{arguments.size}/16, {arguments.images} pictures of {arguments.patches} patches, {arguments.regions} regions and "
        f"{arguments.groups} hard groups each, {known['phrases']} distinct phrases, {arguments.device} "
        f"({torch.get_num_threads()} threads)"
    )
    print(f"{'side':<11} {'CPU s':>8} {'peak GiB':>9}   loss")
    middle = {}
    for side, precision in (("plain", arguments.plain_precision), ("ours", arguments.precision)):
        seconds = statistics.median(row[1] for row in seen[side][UNCOUNTED:])
        middle[side] = seconds, max(row[2] for row in seen[side])
        print(f"{side:<6}{precision:<5} {seconds:>8.2f} {middle[side][1] / 2**30:>9.2f}   {first[side]:.6f}")
    print(
        f"plain / ours: time {middle['plain'][0] / middle['ours'][0]:.2f}, memory {middle['plain'][1] / middle['ours'][1]:.2f}, "
        f"losses differ by {abs(first['plain'] - first['ours']):.1e}"
    )
    print(
        f"matrix products: ours {known['ours'] / 1e12:.2f} TFLOP, plain {known['plain'] / 1e12:.2f}: "
        f"{known['plain'] / known['ours']:.2f} times as many; ours at {known['ours'] / middle['ours'][0] / 1e9:.0f} GFLOP/s"
    )


if __name__ == "__main__":
    main()
