"""A run's figures for Prometheus: an HTTP page of the driver, made from the monitor's counters when it is asked for.

Off unless `fineloom run --metrics [HOST:]PORT` (or FINELOOM_METRICS) names an address. Nothing is counted twice and nothing is
sampled: each page is one look at the counters that the live table shows too. Counters are of this run and begin at zero with it.
The dashboard is manifests/cluster/grafana-dashboard.json.

Every series carries `recipe`; those of a stage carry `stage`:
fineloom_samples_in_total, fineloom_samples_out_total       samples of committed shards that came in, and that were kept
fineloom_refused_samples_total, fineloom_refused_parts_total{reason}    whole samples; captions, regions or groups of kept ones
fineloom_model_usage_total{kind}                            requests, answers_found, prompt_tokens, output_tokens, answer_bytes
fineloom_stage_seconds_total                                seconds of work, added over all workers
fineloom_shards_committed_total                             shards that the stage finished in this run
fineloom_shards_at_work, fineloom_shards_waiting            shards in the stage's hands, and its queue: handed over, not begun
fineloom_samples_at_work                                    samples already done of the shards at work
fineloom_window_shards, fineloom_shards_in_flight           the bound of back-pressure, and what it bounds now
fineloom_flow_shards{state="admitted|finished|skipped|lost"}  this pass over the shards
fineloom_run_stopping                                       1 once a budget, a refusal rate or a dead server ends the run
fineloom_monitor_up                                         0 before work begins and when the monitor does not answer
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipelines.config import ConfigError

Snapshot = dict[str, Any]
ANSWER_SECONDS = 5.0
"""How long a page waits for the monitor: half of Prometheus' default time-out."""


class RunFigures(Collector):
    """`snapshot()` gives Monitor.snapshot(), or None while there is none."""

    def __init__(self, recipe: str, snapshot: Callable[[], Snapshot | None]) -> None:
        self.recipe = recipe
        self.snapshot = snapshot

    def describe(self) -> list[Metric]:
        return []  # a registry would otherwise ask the monitor when the collector is added

    def collect(self) -> Iterator[Metric]:
        snapshot = self.snapshot()
        up = GaugeMetricFamily("fineloom_monitor_up", "1 while the run's monitor answers", labels=["recipe"])
        up.add_metric([self.recipe], snapshot is not None)
        yield up
        if snapshot is not None:
            yield from self._run(snapshot)
            yield from self._stages(snapshot)

    def _run(self, snapshot: Snapshot) -> Iterator[Metric]:
        for name, text, value in (
            ("window_shards", "Shards that may be on their way at once", snapshot["window"]),
            ("shards_in_flight", "Shards that are on their way", snapshot["in_flight"]),
            ("run_stopping", "1 once the run ends before its work does", snapshot["stop"] is not None),
        ):
            gauge = GaugeMetricFamily(f"fineloom_{name}", text, labels=["recipe"])
            gauge.add_metric([self.recipe], value)
            yield gauge
        flow = GaugeMetricFamily("fineloom_flow_shards", "Shards of this pass by state", labels=["recipe", "state"])
        for state in ("admitted", "finished", "skipped", "lost"):
            flow.add_metric([self.recipe, state], snapshot[state])
        yield flow

    def _stages(self, snapshot: Snapshot) -> Iterator[Metric]:
        stages = snapshot["stages"]
        for name, text, key in (
            ("samples_in", "Samples of committed shards that came in", "rows_in"),
            ("samples_out", "Samples of committed shards that were kept", "rows_out"),
            ("stage_seconds", "Seconds of work, added over all workers", "seconds"),
            ("shards_committed", "Shards that were finished in this run", "shards"),
        ):
            counter = CounterMetricFamily(f"fineloom_{name}", text, labels=["recipe", "stage"])
            for stage, count in stages.items():
                counter.add_metric([self.recipe, stage], count[key])
            yield counter
        for name, text, key, label in (
            ("refused_samples", "Samples refused whole", "rejects", "reason"),
            ("refused_parts", "Parts refused of samples that were kept", "parts", "reason"),
            ("model_usage", "Requests, answers found in the store, tokens, and bytes kept", "usage", "kind"),
        ):
            counter = CounterMetricFamily(f"fineloom_{name}", text, labels=["recipe", "stage", label])
            for stage, count in stages.items():
                for which, number in count[key].items():
                    counter.add_metric([self.recipe, stage, which], number)
            yield counter
        at_work = GaugeMetricFamily("fineloom_shards_at_work", "Shards in the stage's hands", labels=["recipe", "stage"])
        samples = GaugeMetricFamily("fineloom_samples_at_work", "Samples done of shards at work", labels=["recipe", "stage"])
        waiting = GaugeMetricFamily(
            "fineloom_shards_waiting", "Shards handed over to the stage and not begun", labels=["recipe", "stage"]
        )
        for stage, count in stages.items():
            at_work.add_metric([self.recipe, stage], count["active"])
            samples.add_metric([self.recipe, stage], count["live"].get("samples", 0))
        for stage, number in snapshot["waiting"].items():
            waiting.add_metric([self.recipe, stage], number)
        yield from (at_work, samples, waiting)


@contextmanager
def exported(address: str | None, recipe: str, snapshot: Callable[[], Snapshot | None]) -> Iterator[int | None]:
    """Serve the figures at `address` while the body runs; gives the port (0 asks for any free one), or None when off.

    Without a host only this machine can ask: to be scraped from elsewhere, say 0.0.0.0:PORT.
    """
    if address is None:
        yield None
        return
    host, port = _address(address)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RunFigures(recipe, snapshot))
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise ConfigError(
            f"--metrics {address}: cannot listen there: {error.strerror or error}. Choose another port"
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--metrics {text}: expected [HOST:]PORT, as in 9464 or 0.0.0.0:9464")
    return host.strip("[]") or "127.0.0.1", int(port)


def ask(monitor: Any) -> Snapshot | None:
    """The monitor's counters, or None when it is gone or busy: the run meets a dead monitor itself."""
    import ray

    try:
        return ray.get(monitor.snapshot.remote(), timeout=ANSWER_SECONDS)
    except ray.exceptions.RayError:
        return None


__all__ = ["RunFigures", "ask", "exported"]
