"""Addresses of the viewer. All are GET, all are permanent: a view is its address, a sample is run, shard and identity.

/                                   the runs
/RUN/                               samples: where, q, sort, order, seed, page
/RUN/rejects                        refusals counted; with stage, reason, q, seed, page also listed
/RUN/sample/SHARD/UID               everything known of one sample
/RUN/sample/UID                     the same, wherever it is; the first digits are enough
/RUN/picture/SHARD/UID?side=480     a small JPEG of it
/compare/RUN/RUN?which=COLUMN       two runs over the same samples
/language?to=zh&back=/…             the pages' language
/look.css  /look.js
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from operators.pictures import BadPicture
from pipelines.config import ConfigError
from pipelines.show import find
from pipelines.viewer import pages
from pipelines.viewer.beside import PAGE as PAIRS
from pipelines.viewer.beside import Beside, told
from pipelines.viewer.find import PAGE, Question, Selection
from pipelines.viewer.language import choose, language_of, speaker, switch
from pipelines.viewer.pictures import MAX_BYTES, SIDES, Kept, thumbnail
from pipelines.viewer.snapshot import UNREADABLE, NotThere, Run, Snapshot

SELECTIONS = 24
"""Questions whose answers are remembered: at most 2.5 MB each."""
LONGEST = 4000
"""Characters of one value in an address."""
MAX_PAGE = 10_000_000
UNREAD = "This cannot be read just now: {why}. Is the run being written, or was a part of it deleted?"
NO_PAGE = "There is no such page."
HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """Headers on every answer; names of other hosts are refused, lest a stranger's page read the run through its own name."""

    def __init__(self, app: ASGIApp, hosts: set[str] | None, headers: dict[str, str] = HEADERS) -> None:
        self.app, self.hosts, self.headers = app, hosts, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                more = {"cache-control": "no-store", **self.headers}
                message["headers"] += [(n.encode(), v.encode()) for n, v in more.items() if n.encode() not in names]
            await send(message)

        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        if self.hosts is not None and _hostname(host) not in self.hosts:
            refusal = Response("This server answers to its own name only.\n", 421, media_type="text/plain")
            await refusal(scope, receive, guarded)
            return
        await self.app(scope, receive, guarded)


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


class Viewer:
    def __init__(self, runs: dict[str, Run]) -> None:
        self.runs = runs
        self.thumbnails = Kept()
        self._selections: OrderedDict[tuple[str, str, Question], Selection] = OrderedDict()
        self._beside: tuple[tuple, Beside] | None = None
        self._lock = threading.Lock()

    def selection(self, snapshot: Snapshot, question: Question) -> Selection:
        key = (snapshot.recipe.name, snapshot.stamp, question)
        with self._lock:
            found = self._selections.get(key)
            if found is None:
                for old in [old for old in self._selections if old[0] == key[0] and old[1] != key[1]]:
                    del self._selections[old]  # it would keep an older snapshot alive
                found = self._selections[key] = Selection(snapshot, question)
            self._selections.move_to_end(key)
            while len(self._selections) > SELECTIONS:
                self._selections.popitem(last=False)
            return found

    def run(self, request: Request, name: str | None = None) -> Run:
        name = request.path_params["run"] if name is None else name
        if name not in self.runs:
            raise NotThere(404, "There is no run {name} here. Runs: {runs}.", name=name, runs=", ".join(self.runs))
        return self.runs[name]

    def beside(self, a: Snapshot, b: Snapshot) -> Beside:
        key = (a.run, a.stamp, b.run, b.stamp)
        with self._lock:
            if self._beside is None or self._beside[0] != key:
                self._beside = (key, Beside(a, b))
            return self._beside[1]

    # Pages.

    def home(self, request: Request) -> Response:
        if len(self.runs) == 1:
            return RedirectResponse(pages.link(f"/{next(iter(self.runs))}/"))
        found = []
        for name, run in self.runs.items():
            try:
                found.append({"name": name, "snapshot": run.snapshot(), "fault": None})
            except NotThere as error:
                found.append({"name": name, "snapshot": None, "fault": error.told(speaker(language_of(request)))})
        return page(request, "home", runs=found, run=None)

    def gallery(self, request: Request) -> Response:
        return self._list(request, "gallery")

    def rejects(self, request: Request) -> Response:
        return self._list(request, "rejects")

    def _list(self, request: Request, template: str) -> Response:
        run = self.run(request)
        snapshot = run.snapshot()
        asked = {key: request.query_params.get(key, "").strip() for key in ("where", "q", "sort", "order", "stage", "reason")}
        mistake = None
        try:
            number, seed = _number(request, "page", 1) or 1, _number(request, "seed", None)
            if any(len(value) > LONGEST for value in asked.values()):
                raise ValueError(f"a value of more than {LONGEST:,} characters")
            if template == "rejects":
                question = Question(q=asked["q"], seed=seed, rejects=True, stage=asked["stage"], reason=asked["reason"])
            else:
                question = Question(asked["where"], asked["q"], asked["sort"], asked["order"] != "up", seed)
            found = self.selection(snapshot, question).page(number)
        except ValueError as error:  # of the visitor's own
            mistake, found, number, seed = str(error), None, 1, None
        refused, counted = snapshot.refused()
        return page(
            request,
            template,
            status=400 if mistake else 200,
            run=run.label,
            snapshot=snapshot,
            asked={**asked, "seed": seed},
            mistake=mistake,
            found=found,
            number=number,
            size=PAGE,
            cards=snapshot.cards(found.places) if found else [],
            refused=refused,
            counted=counted,
            link_to=lambda number: pages.link(request.url.path, **{**asked, "seed": seed, "page": number}),
        )

    def compare(self, request: Request) -> Response:
        names = [request.path_params[name] for name in ("a", "b")]
        runs = [self.run(request, name) for name in names]
        a, b = (run.snapshot() for run in runs)
        beside, which, mistake, found, number = self.beside(a, b), request.query_params.get("which", ""), None, None, 1
        try:
            number = _number(request, "page", 1) or 1
            if which not in ("", "all", *beside.names):
                raise ValueError(f"which={which[:40]}: expected all or one of {', '.join(beside.names)}")
            found = beside.page(number, which)
        except ValueError as error:
            mistake = str(error)
        cards = [snapshot.cards([pair[i] for pair in found.pairs]) if found else [] for i, snapshot in enumerate((a, b))]
        return page(
            request,
            "compare",
            status=400 if mistake else 200,
            run=None,
            a=names[0],
            b=names[1],
            beside=beside,
            which=which,
            mistake=mistake,
            found=found,
            number=number,
            size=PAIRS,
            pairs=[told(first, second) for first, second in zip(*cards, strict=True)],
            refusals=_both_refused(a, b),
            path=request.url.path,
            link_to=lambda number: pages.link(request.url.path, which=which, page=number),
        )

    def choose_two(self, request: Request) -> Response:
        """From the form of the front page."""
        a, b = (request.query_params.get(name, "") for name in ("a", "b"))
        return RedirectResponse(pages.link(f"/compare/{self.run(request, a).label}/{self.run(request, b).label}"))

    def sample(self, request: Request) -> Response:
        run = self.run(request)
        snapshot, uid = run.snapshot(), request.path_params["uid"]
        if not re.fullmatch("[0-9a-f]{32}", uid):
            raise NotThere(404, "A sample’s identity has 32 hex digits.")
        return page(
            request, "sample", run=run.label, snapshot=snapshot, card=snapshot.sample(request.path_params["shard"], uid)
        )

    def anywhere(self, request: Request) -> Response:
        run = self.run(request)
        try:
            hit = find(run.snapshot().chain, request.path_params["uid"])[-1]
        except ConfigError as error:
            raise NotThere(404, str(error)) from error
        return RedirectResponse(pages.link(f"/{run.label}/sample/{hit.shard}/{hit.uid}"))

    def picture(self, request: Request) -> Response:
        run, shard, uid = self.run(request), request.path_params["shard"], request.path_params["uid"]
        asked = request.query_params.get("side", str(SIDES[0]))
        if asked not in map(str, SIDES) or not re.fullmatch("[0-9a-f]{32}", uid):
            raise NotThere(404, "Pictures are drawn {small} or {large} pixels long.", small=SIDES[0], large=SIDES[1])
        snapshot = run.snapshot()
        key = (run.label, snapshot.stamp, shard, uid, asked)
        snapshot.refuse_taken(shard, uid)
        data = self.thumbnails.get(key)
        if data is None:
            try:
                data = thumbnail(snapshot.picture(shard, uid, MAX_BYTES), int(asked))
            except BadPicture as error:
                raise NotThere(415, f"{error.reason}: {error.detail}") from error
            self.thumbnails.put(key, data)
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=60"})


def _both_refused(a: Snapshot, b: Snapshot) -> list[tuple[str, int, int]]:
    """Stage and reason, with how many samples and parts each run refused for it."""
    counts: dict[str, list[int]] = {}
    for i, snapshot in enumerate((a, b)):
        for stage, row in snapshot.refused()[0].items():
            for reason, times in (row["samples"] + row["parts"]).items():
                counts.setdefault(f"{stage}: {reason}", [0, 0])[i] += times
    return [(what, *times) for what, times in sorted(counts.items())]  # type: ignore[misc]


def _number(request: Request, name: str, otherwise: int | None) -> int | None:
    text = request.query_params.get(name, "").strip()
    if not text:
        return otherwise
    if not re.fullmatch("[0-9]{1,18}", text) or (name == "page" and not 1 <= int(text) <= MAX_PAGE):
        raise ValueError(f"{name}={text[:40]}: expected a whole number")
    return int(text)


def page(request: Request, template: str, status: int = 200, **content: Any) -> Response:
    html = pages.render(template, language_of(request), switch=switch(request), **content)
    return HTMLResponse(html, status, headers={"vary": "accept-language, cookie"})


def _told(request: Request, status: int, text: str, **values: Any) -> Response:
    told = speaker(language_of(request))(text, **values)
    return page(request, "refusal", status, run=request.path_params.get("run"), text=told, code=status)


def asset(content: str, kind: str) -> Callable[[Request], Response]:
    return lambda request: Response(content, media_type=kind, headers={"cache-control": "private, max-age=300"})


def make_app(runs: dict[str, Run], hosts: set[str] | None) -> Starlette:
    """hosts: names under which the server may be asked; None for any."""
    viewer = Viewer(runs)

    def not_there(request: Request, error: Exception) -> Response:
        assert isinstance(error, NotThere)
        return _told(request, error.status, error.text, **error.values)

    def unreadable(request: Request, error: Exception) -> Response:
        why = f"{type(error).__name__}: {error}"
        return _told(request, 503, UNREAD, why=why)

    def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _told(request, error.status_code, {404: NO_PAGE}.get(error.status_code, error.detail))

    return Starlette(
        routes=[
            Route("/", viewer.home),
            Route("/language", choose),
            Route("/look.css", asset(pages.style(), "text/css")),
            Route("/look.js", asset(pages.script(), "text/javascript")),
            Route("/compare", viewer.choose_two),
            Route("/compare/{a}/{b}", viewer.compare),
            Route("/{run}/", viewer.gallery),
            Route("/{run}/rejects", viewer.rejects),
            Route("/{run}/sample/{shard:int}/{uid}", viewer.sample),
            Route("/{run}/sample/{uid}", viewer.anywhere),
            Route("/{run}/picture/{shard:int}/{uid}", viewer.picture),
        ],
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={NotThere: not_there, HTTPException: http, **dict.fromkeys(UNREADABLE, unreadable)},
    )
