"""What a run starts from: processes and device, model, tokenizer, number of steps."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist

from fgclip2_train.config import Settings
from fgclip2_train.counting import count_samples
from fgclip2_train.data.loader import DataSettings
from fgclip2_train.data.shards import read_shard, sound
from fgclip2_train.data.tokens import Texts, load_texts, train_tokenizer
from fgclip2_train.evaluation.pictures import from_rank_0
from fgclip2_train.memory import keep_memory
from fgclip2_train.model import Fgclip2Model
from fgclip2_train.model.configuration import FAMILY, GEMMA_VOCABULARY, sized
from fgclip2_train.model.initialise import adopt_region_heads, from_scratch, load_model
from fgclip2_train.ring import rank

TOKENIZER_TEXTS = 20_000
"""Texts that a small tokenizer is made from, at most."""


def join_processes(settings: Settings) -> torch.device:
    """The device of this process; joins torchrun's (or Ray Train's) process group if there is one."""
    on_gpu = wants_gpu(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("cuda:nccl,cpu:gloo" if on_gpu else "gloo")
    if not on_gpu:
        keep_memory()
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    torch.set_float32_matmul_precision("high")  # TF32 for what is left in float32 under autocast, as officially
    return device


def wants_gpu(device: str) -> bool:
    """Whether this process computes on a GPU; ValueError where it is to and cannot."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    place = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda" and not there:
        raise ValueError("device=cuda: torch sees no GPU here. device=cpu, or leave it out")
    if device != "cpu" and there and place >= there:
        raise ValueError(
            f"process {place} of this machine has no GPU of its own: there are {there}. Start no more processes than GPUs"
        )
    return device != "cpu" and there > 0


def start_from(settings: Settings, checkpoint: Path | None) -> tuple[Fgclip2Model, Texts]:
    """Model (on the CPU, float32) and tokenizer: of the run's own checkpoint, else as `model` says."""
    wanted = settings.model
    if checkpoint:
        return load_model(checkpoint), load_texts(checkpoint)
    if wanted.start is None:
        if wanted.size is None:
            raise ValueError(
                f"preset {settings.preset}: stage {settings.stage} starts from stage 1: model.start=<its out>/checkpoints/last. To "
                "start from SigLIP 2 without a stage 1: model.start=google/siglip2-base-patch16-naflex"
            )
        texts = _tokenizer_for_random_model(settings)
        vocabulary = len(texts) if wanted.tokenizer == "train" else max(len(texts), GEMMA_VOCABULARY)
        config = sized(**FAMILY[wanted.size], vocabulary=vocabulary)
        return from_scratch(config, settings.seed, wanted.logit_scale, wanted.logit_bias), texts
    if wanted.tokenizer == "train":
        raise ValueError("model.tokenizer=train makes a new vocabulary, which does not fit the weights of model.start")
    model, texts = load_model(wanted.start), load_texts(wanted.tokenizer or wanted.start)
    if len(texts) > model.config.text.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(texts)} tokens, the model of {wanted.start} only {model.config.text.vocab_size}: "
            "take the tokenizer that belongs to the weights"
        )
    if wanted.recopy_region_heads and settings.regional:
        adopt_region_heads(model)
    return model, texts


def _tokenizer_for_random_model(settings: Settings) -> Texts:
    choice = settings.model.tokenizer
    if choice is None:
        raise ValueError("a random model needs a tokenizer: model.tokenizer=DIR, or model.tokenizer=train for a small new one")
    if choice != "train":
        return load_texts(choice)
    # Every rank makes it for itself from the same texts, whatever it could read itself, and gets the same.
    texts = from_rank_0(list(islice(corpus(settings.data), TOKENIZER_TEXTS)) if rank() == 0 else [])
    return train_tokenizer(texts, settings.model.vocabulary)


def corpus(data: DataSettings) -> Iterator[str]:
    """Captions and phrases of the shards, in file order, pictures left unread."""
    texts: list[str] = []

    def note(place: int, record: dict) -> bool:
        if not sound(record):
            return False
        texts.extend(text["text"] for text in record["texts"])
        for region in record.get("regions", ()):
            texts.extend([region["short"], region["long"], *(negative["text"] for negative in region.get("negatives", ()))])
        return False

    for shards, _ in data.found().values():
        for shard in shards:
            for _ in read_shard(shard, Counter(), note, holes=True):
                pass
            yield from texts
            texts.clear()


def total_steps(settings: Settings, ranks: int, step: int = 0, pairs: int | None = None, out: Path | None = None) -> int:
    """`steps`, or `epochs` over the samples that have a text in a wanted language (counted by reading the records, once for `out`).

    step, pairs: where a run goes on, and how many pairs all its ranks have seen by then; what is left is cut into steps of today's
    size, which is another one on other ranks.
    """
    if settings.steps:
        return settings.steps
    if not settings.epochs:
        raise ValueError("say how long to train: steps=N or epochs=N")
    samples = count_samples(settings.data, out)
    size = settings.batch * ranks
    if pairs is None or pairs == step * size:
        return max(1, round(settings.epochs * samples / size))
    return step + max(0, round((settings.epochs * samples - pairs) / size))
