"""Joining a Ray cluster, or starting one on this machine, quietly."""

from __future__ import annotations

import logging
import os


def connect(address: str | None, cpus: int | None = None) -> None:
    """Connect to `address` ("auto" inside a Ray job), or start Ray here.

    `address="local"` starts a cluster of its own: a head that was killed leaves state that a plain `ray.init()` would attach to.
    """
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    import ray

    for name in ("ray", "ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if address is None and os.environ.get("RAY_ADDRESS"):
        address = "auto"
    if address is None:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
            configure_logging=False,
        )
    else:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
