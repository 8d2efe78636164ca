"""The command `fineloom`. Each command says what it will do, shows that it moves, and ends with what was made and where."""

from __future__ import annotations

import errno
import os
import signal
import sys
from types import FrameType

from typer.completion import completion_init

from pipelines import data_commands, look_commands, machine_commands, run_commands, train
from pipelines.config import ConfigError
from pipelines.help_page import INTERRUPTED, App
from pipelines.stores import StoreError, StoreFailed
from pipelines.terminal import warn

app = App(
    help="""FineLoom makes the image-text data that cannot be downloaded, long bilingual captions, grounded boxes and checked
    hard negatives, and trains FG-CLIP 2 on it.

    RECIPE is a name in manifests/recipes or a YAML file; any setting of it can be changed as KEY=VALUE. `fineloom COMMAND --help`
    tells more. The trainer has further commands: `python -m fgclip2_train --help`.

    Examples:
        fineloom doctor                   # what this machine has and lacks
        fineloom plan pictures            # what would be done, asked and paid, with a folder of your pictures
        fineloom run pictures             # do it; killed, it goes on where it was
        fineloom view runs/pictures       # look at it
        fineloom completion bash --install
    """
)
for commands in (run_commands, look_commands, data_commands, train, machine_commands):
    commands.add_to(app)


PLACES = (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
"""Of an OSError: at a path is something else than was wanted there, or it may not be touched. What the system says names it."""


def _hung_up(number: int, frame: FrameType | None) -> None:
    """A Ctrl-C, heard once: the system sends it, and the shell. Nothing is written to a terminal that is gone: that would raise."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream)
            os.close(nowhere)
    signal.default_int_handler(number, frame)


def main() -> None:
    """Entry point: mistakes of the user and a full disk end in one clear line, defects in a traceback."""
    from pipelines.cluster import NoCluster
    from pipelines.durable import FULL, Damaged, full
    from pipelines.ledger import BrokenEntry
    from pipelines.model_identity import ServerUnavailable
    from pipelines.run import RunBusy
    from pipelines.serve import ServeError
    from pipelines.sources import SourceError

    # What Slurm, Kubernetes and `ray job stop` send is heard as a Ctrl-C, and so is the end of the terminal, except below nohup.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _hung_up)
    completion_init()  # the shells that Tab may be pressed in
    try:
        app()
    except SystemExit as ended:
        if ended.code != INTERRUPTED or "ray" not in sys.modules:
            raise
        # All is said and kept, and threads of Ray's are wherever the Ctrl-C found them: the interpreter's own end can crash beneath
        # them. Ray's processes end with this one.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)
    except (ConfigError, SourceError, RunBusy, ServerUnavailable, ServeError, StoreError, BrokenEntry, Damaged) as error:
        warn(f"error: {error}")
        sys.exit(2)
    except NoCluster as error:
        warn(f"error: {error}")
        sys.exit(1)
    except StoreFailed as error:
        warn(f"error: {error}. Nothing committed is lost: call this again when the store answers")
        sys.exit(1)
    except OSError as error:
        if error.errno in FULL:
            warn(f"error: {full(error)} and call this again; nothing committed is lost")
            sys.exit(1)
        if not isinstance(error, FileNotFoundError) and error.errno not in PLACES:
            raise
        problem = error.strerror or "no such file"
        if isinstance(error, FileExistsError) and error.filename and os.path.islink(error.filename):
            problem = f"a link to {os.readlink(error.filename)}, and nothing is there: is that disk not mounted?"
        warn(f"error: {error.filename or error}: {problem}")
        sys.exit(2)
