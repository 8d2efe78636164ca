"""`fineloom train`: the trainer on a Ray cluster. Every worker runs the very function that torchrun starts, `fgclip2_train.loop.train`.

Ray places the workers, joins them into one process group and starts all of them again when one dies; the trainer then goes on from its
newest checkpoint, which therefore must lie where every worker sees it. There lies too, for as long as the run, what workers and this
process have to say to each other: a mistake, which Ray is not to try again, and the wish to stop, since signals do not reach workers.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cluster import connect
from pipelines.config import ConfigError
from pipelines.help_page import App

LOG = "train.log"
"""In `out`: the trainer's lines, of all attempts."""

MISTAKE, STOP = "mistake", "stop"


def add_to(app: App) -> None:
    app.command("train", rich_help_panel="Train")(train)


def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings of the trainer; stage=1|2 and out=DIR are needed.")
    ] = None,
    preset: Annotated[str, typer.Option(help="A preset of the trainer, or a YAML file.")] = "fineloom",
    workers: Annotated[int, typer.Option(min=1, help="Training processes, one per GPU where there are any.")] = 1,
    gpu: Annotated[bool, typer.Option(help="Give every worker a GPU.")] = False,
    cpus: Annotated[int, typer.Option(min=1, help="CPUs per worker, for itself and its readers.")] = 1,
    retries: Annotated[
        int, typer.Option(min=0, help="How often to start again from the last checkpoint when a worker dies.")
    ] = 3,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; by default Ray starts here.")] = None,
) -> None:
    """Train one stage on Ray. A run that was interrupted goes on from its newest checkpoint.

    Examples:
        fineloom train stage=1 out=runs/stage1 data.shards='runs/demo/shards/*.tar' --workers 8 --gpu
    """
    from fgclip2_train.config import load_settings

    try:
        settings = load_settings(preset, overrides or [])
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from None
    print(f"checkpoint: {run(settings.model_dump(mode='json'), workers, gpu, cpus, retries, address)}")


def run(
    settings: dict[str, Any], workers: int, gpu: bool = False, cpus: int = 1, retries: int = 3, address: str | None = None
) -> Path:
    """The newest checkpoint. Raises ConfigError with what the trainer said if it cannot go on, and KeyboardInterrupt after a Ctrl-C,
    with all saved."""
    connect(address, None if gpu else max(os.cpu_count() or 1, workers * cpus))
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchConfig, TorchTrainer

    from fgclip2_train.checkpoint import resolve
    from fgclip2_train.errors import Stopped

    out = Path(settings["out"]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ray-", dir=out) as folder:
        notes = Path(folder)
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"settings": settings, "folder": os.getcwd(), "log": str(out / LOG), "notes": folder},
            # Sums over the ranks' flags are taken on the host, where NCCL cannot.
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo"),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": cpus, "GPU": int(gpu)}),
            run_config=RunConfig(
                name="ray",
                storage_path=str(out),
                failure_config=FailureConfig(max_failures=retries),
                worker_runtime_env={"env_vars": {"RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}},  # type: ignore[call-arg]
            ),
        )
        with _shown(out / LOG):
            try:
                _fit(trainer, notes / STOP)
            except WorkerGroupError as error:
                if not (notes / MISTAKE).exists():
                    found = error.worker_failures.values()
                    told = [failure for failure in found if isinstance(failure, (ValueError, OSError, Stopped))]
                    if not told:
                        raise
                    raise ConfigError(str(told[0])) from None
        if (notes / MISTAKE).exists():
            raise ConfigError((notes / MISTAKE).read_text())
    return resolve(out)


def _fit(trainer: Any, stop: Path) -> None:
    """Beside this thread, whose Ctrl-C Ray would otherwise take to end the workers: the first one asks them to save and stop."""
    fitted: Future[None] = Future()

    def fit() -> None:
        try:
            trainer.fit()
            fitted.set_result(None)
        except BaseException as error:
            fitted.set_exception(error)

    threading.Thread(target=fit, daemon=True).start()
    try:
        fitted.result()
    except KeyboardInterrupt:
        stop.touch()
        print("asked to stop: this step is finished and saved first; Ctrl-C again ends it at once", file=sys.stderr, flush=True)
        fitted.result()
        raise


def _worker(config: dict[str, Any]) -> None:
    mistake, stop = (Path(config["notes"]) / name for name in (MISTAKE, STOP))
    if mistake.exists():  # a worker that heard of it too late was taken for dead
        return
    import ray.train

    from fgclip2_train.config import validate
    from fgclip2_train.errors import NonFinite, OtherRankFailed
    from fgclip2_train.loop import train

    os.chdir(config["folder"])  # paths in the settings are the driver's
    rank = ray.train.get_context().get_world_rank()
    try:
        # Ray's own way of showing workers' output mixes it with much else; the trainer's lines go through a file.
        with open(config["log"] if rank == 0 else os.devnull, "a", buffering=1) as log, contextlib.redirect_stdout(log):
            train(validate(config["settings"], "fineloom train"), stop)
    except (ValueError, FileNotFoundError, NonFinite) as error:  # the same again, however often it is tried
        with contextlib.suppress(FileExistsError), mistake.open("x") as file:
            file.write(f"rank {rank}: {error}")
    except OtherRankFailed:
        if not mistake.exists():
            raise


@contextlib.contextmanager
def _shown(path: Path) -> Iterator[None]:
    """Show what is added to a file meanwhile."""
    path.touch()
    over = threading.Event()

    def follow() -> None:
        with path.open() as file:
            file.seek(0, os.SEEK_END)
            while True:
                last = over.wait(0.5)
                print(file.read(), end="", flush=True)
                if last:
                    return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
