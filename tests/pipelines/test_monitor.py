import time

from pipelines.monitor import MIN_SAMPLES, Limits, Monitor, pieces

ENTRY = {"rows_in": 10, "rows_out": 10, "rejects": {}, "parts": {}, "usage": {}, "seconds": 1.0}


def begun(window: int, limits: Limits, *stages: str, memory: object = None) -> Monitor:
    monitor = Monitor(window, limits, memory)
    monitor.begin_flow(stages or ("size",))
    return monitor


def test_no_more_shards_are_admitted_than_the_window_holds():
    monitor = begun(2, Limits({}))
    assert [monitor.admit("size", shard) for shard in (1, 2, 3)] == ["go", "go", "wait"]
    monitor.finish("size", 1)
    monitor.finish("size", 1)  # a task that is repeated says it again
    assert [monitor.admit("size", shard) for shard in (3, 4)] == ["go", "wait"]
    monitor.begin_flow(["caption"], anew=False)
    assert monitor.admit("caption", 1) == "go", "another flow has a window of its own"


def test_a_shard_that_is_lost_gives_its_place_in_the_window_back():
    monitor = Monitor(3, Limits({}), lost_after=0.2)
    monitor.begin_flow(["size", "caption"])
    assert [monitor.admit("size", shard) for shard in (1, 2, 3, 4)] == ["go", "go", "go", "wait"]
    assert monitor.admit("size", 2) == "go", "a source that is begun anew says again what is on its way"
    for shard in (1, 2, 3):
        monitor.start("size", shard)
    monitor.end("size", 3, ENTRY, True)
    time.sleep(0.3)
    monitor.beat("size", 1)  # 2 is not heard of; 3 waits, which may take as long as it likes while somebody works
    assert [monitor.admit("size", shard) for shard in (4, 5)] == ["go", "wait"]
    assert monitor.snapshot()["lost"] == 1 and monitor.snapshot()["in_flight"] == 3
    monitor.finish("size", 2)  # it was only slow
    assert monitor.snapshot()["lost"] == 0 and monitor.admit("size", 5) == "wait"
    time.sleep(0.3)
    assert [monitor.admit("size", shard) for shard in (5, 6, 7, 8)] == ["go", "go", "go", "wait"], "nobody is at work"


def test_what_workers_wait_for_is_told_once_and_until_it_is_over():
    monitor = begun(3, Limits({}), "download")
    for shard in (1, 2):
        monitor.start("download", shard)
        monitor.beat("download", shard, "no network since 3:00")
    assert monitor.snapshot()["waits_for"] == ["download: no network since 3:00"]
    monitor.beat("download", 1)
    monitor.end("download", 2, None)
    assert monitor.snapshot()["waits_for"] == []


def test_a_shard_that_waits_while_many_that_came_later_are_begun_is_lost():
    monitor = begun(2, Limits({}), "size", "caption")
    monitor.admit("size", 0)
    monitor.start("size", 0)
    monitor.end("size", 0, ENTRY, True)
    for shard in range(1, 7):
        assert [monitor.admit("size", shard), monitor.admit("size", 99)] == ["go", "wait" if shard < 6 else "go"]
        monitor.start("size", shard)
        monitor.end("size", shard, ENTRY, True)
        monitor.start("caption", shard)
        monitor.finish("size", shard)
    assert monitor.flows["size"].lost == {0}


def test_a_refusal_rate_beyond_its_bound_stops_the_run_and_says_why():
    monitor = begun(2, Limits({"download": 0.5}), "download")
    monitor.start("download", 0)
    monitor.end("download", 0, {**ENTRY, "rows_in": MIN_SAMPLES, "rows_out": 20, "rejects": {"http_404": MIN_SAMPLES - 20}})
    assert monitor.admit("download", 1) == "stop"
    assert "download refused 90.0%" in monitor.stop_reason and "http_404" in monitor.stop_reason


def test_a_few_samples_do_not_judge_a_stage_until_the_flow_ends():
    monitor = Monitor(2, Limits({"select": 0.5}))
    monitor.start("select", 0)
    monitor.end("select", 0, {**ENTRY, "rows_out": 1, "rejects": {"not_selected": 9}})
    assert monitor.stop_reason is None
    monitor.end_of_flow()
    assert "select refused" in monitor.stop_reason


def test_a_spent_token_budget_stops_and_counts_shards_still_at_work():
    monitor = Monitor(2, Limits({}, output_tokens=100))
    monitor.start("caption", 0)
    monitor.end("caption", 0, {**ENTRY, "usage": {"output_tokens": 60}})
    assert monitor.start("caption", 1) == (1, None)
    assert "100 output tokens" in monitor.progress("caption", 1, {"samples": 1, "output_tokens": 40})
    assert monitor.start("caption", 2)[1] is not None


def test_gpu_hours_are_counted_from_the_first_stage_that_asks(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("pipelines.monitor.time.monotonic", lambda: now[0])
    monitor = Monitor(2, Limits({}, gpu_hours=2.0, gpus={"caption": 4.0}))
    monitor.begin_flow(["download"])
    now[0] += 3600
    monitor.begin_flow(["size", "caption"])
    now[0] += 1700
    assert monitor.progress("caption", 0, {"samples": 1}) is None
    now[0] += 101
    assert "2 GPU-hours is spent (2.001)" in monitor.progress("caption", 0, {"samples": 2})


def test_starts_without_an_end_are_counted_so_that_a_killer_is_known():
    monitor = Monitor(2, Limits({}))
    assert [monitor.start("size", 5)[0] for _ in range(3)] == [1, 2, 3]
    monitor.end("size", 5, None)
    assert monitor.start("size", 5)[0] == 1


def hunted(rows: int, killers: set[int], others: int = 0) -> tuple[list[int], int]:
    """What a hunt finds among `rows` rows, and how many workers die of it; the first `others` die of something else."""
    monitor, deaths = Monitor(2, Limits({})), 0
    while True:
        deaths += 1
        assert deaths < 24
        if deaths <= others:
            monitor.hunt("size", 1, rows)
            monitor.mark("size", 1, (0, 1))
            continue
        found, within = monitor.hunt("size", 1, rows)
        left = killers - set(found)
        died = False
        for first, last in pieces(*within) if within else ():
            monitor.mark("size", 1, (first, last))
            died = any(first <= row < last for row in left)
            if died:
                break
        if not died:
            monitor.mark("size", 1, None)
            if not left:
                return found, deaths


def test_a_sample_that_kills_is_found_by_few_deaths_in_a_large_shard():
    assert hunted(10_000, {7777}) == ([7777], 7)
    assert hunted(5, {0}) == ([0], 4)
    found, deaths = hunted(1000, {3, 4, 999})
    assert sorted(found) == [3, 4, 999] and deaths <= 18


def test_what_dies_of_something_else_costs_no_sample():
    assert hunted(100, set()) == ([], 1)
    assert hunted(100, set(), others=1) == ([], 2), "a death while one row was at work alone says little"


class Shelf:
    """What outlives a monitor."""

    state = None

    def save(self, state: bytes) -> None:
        self.state = state

    def load(self) -> bytes | None:
        return self.state


def test_a_monitor_in_the_place_of_a_lost_one_goes_on_from_what_that_one_said_last():
    shelf, limits = Shelf(), Limits({}, output_tokens=100)
    lost = begun(2, limits, "size", "caption", memory=shelf)
    assert [lost.admit("size", shard) for shard in (1, 2, 3)] == ["go", "go", "wait"]
    lost.start("size", 1)
    lost.end("size", 1, ENTRY, True)
    lost.start("caption", 1)
    lost.end("caption", 1, {**ENTRY, "usage": {"output_tokens": 60}})
    assert lost.start("size", 2) == (1, None)
    assert lost.hunt("size", 2, 32) == ([], None)
    assert lost.hunt("size", 2, 32) == ([], (0, 32))
    lost.mark("size", 2, (2, 4))

    taken_up = Monitor(2, limits, shelf)
    assert taken_up.admit("size", 4) == "go", "shards went on meanwhile: the window is not full for ever"
    assert taken_up.start("size", 2) == (2, None), "the try that was begun is remembered"
    assert taken_up.hunt("size", 2, 32) == ([], (2, 4)), "the rows that were at work are remembered"
    taken_up.end("caption", 1, {**ENTRY, "usage": {"output_tokens": 60}})
    assert taken_up.stop_reason is None, "a call that is repeated counts once"
    taken_up.start("caption", 2)
    taken_up.end("caption", 2, {**ENTRY, "usage": {"output_tokens": 40}})
    assert "100 output tokens" in Monitor(2, limits, shelf).stop_reason, "a budget is not spent twice"
    assert Monitor(2, limits, shelf).snapshot()["stages"]["caption"]["rows_in"] == 20
