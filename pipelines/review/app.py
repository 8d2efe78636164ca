"""Addresses of the review. Everything but the first two wants a session; every change is a POST with the session's own token.

/enter/TOKEN            a reviewer's personal link: opens a session
/look.css /look.js /review.js
/                       the next item, or the end
/item/N                 one item; POST stores a verdict, /item/N/skip puts it off
/mine                   what the reviewer said so far, to look at and change
/progress               how far it is, who judged how many, and how far people agree
/picture/N?side=1400    a small JPEG of the item's picture
/leave                  POST: ends the session
/language?to=zh         the pages' language
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from operators.pictures import BadPicture
from operators.reviewed import VERDICTS, Review, parse_review
from operators.reviewed_negatives import fault_of
from operators.validators import characters
from pipelines.compare import difference
from pipelines.review.book import Book, BookError, Item, Reviewer, Taken
from pipelines.review.database import Unsure
from pipelines.review.filler import Filler
from pipelines.review.limits import Limits, Told
from pipelines.review.marks import marked
from pipelines.review_file import agreement
from pipelines.viewer import pages
from pipelines.viewer.app import HEADERS, NO_PAGE, UNREAD, Guard, asset
from pipelines.viewer.language import choose, language_of, speaker, switch
from pipelines.viewer.pictures import MAX_BYTES, SIDES, Kept, thumbnail
from pipelines.viewer.snapshot import UNREADABLE, NotThere, Run

HERE = Path(__file__).parent
COOKIE = "fineloom_review"
MAX_BODY = 600_000
"""Bytes of a form: 20,000 characters, of which one may take nine when sent."""
OWN = 200
CLOSED = "The book of the review cannot be used: {why}. Nothing that was stored before is lost."
REASONS = {
    "meaning": "says something else",
    "missing": "something is missing",
    "added": "something is added",
    "fluency": "not fluent",
    "language": "wrong language or script",
    "picture": "not what the picture shows",
    "other": "another reason",
}
REASONS_OF = {
    "translation": tuple(REASONS),
    "caption": ("picture", "missing", "added", "fluency", "language", "other"),
    "negatives": ("true", "fluency", "other"),
}
REASONS["true"] = "one of them is true of the box"
POLICY = {**HEADERS, "content-security-policy": HEADERS["content-security-policy"] + "; connect-src 'self'"}
_PAGES = pages.environment(HERE)


class Desk:
    def __init__(self, run: Run, book: Book, filler: Filler, secure: bool) -> None:
        self.run, self.book, self.filler, self.secure = run, book, filler, secure
        # Browsers keep cookies by host, not by port: two reviews on one machine must not end each other's sessions.
        self.cookie = f"{COOKIE}_{hashlib.sha256(run.name.encode()).hexdigest()[:8]}"
        self.limits = Limits()
        self.thumbnails = Kept()

    # Who is there.

    def reviewer(self, request: Request) -> Reviewer:
        session = request.cookies.get(self.cookie, "")
        found = self.book.who(session) if session else None
        if found is None:
            raise Told(401, "Open your personal link first: whoever runs this review gives you one.")
        self.limits.of_reviewer(found.id)
        return found

    def enter(self, request: Request) -> Response:
        address = request.client.host if request.client else ""
        self.limits.of_stranger(address)
        session = self.book.enter(request.path_params["token"][:200])
        if session is None:
            self.limits.wrong(address)
            raise Told(403, "This link does not work: there is a newer one, or it was revoked.")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self.cookie, session, max_age=30 * 86400, httponly=True, samesite="lax", secure=self.secure)
        return answer

    def leave(self, request: Request, reviewer: Reviewer, form: dict[str, str]) -> Response:
        self.book.leave(reviewer.session)
        answer = page(
            request, "told", None, self, text="You have left the review. Your verdicts are kept.", code=200, values={}
        )
        answer.delete_cookie(self.cookie)
        return answer

    # Items.

    def next(self, request: Request, reviewer: Reviewer) -> Response:
        item = self.book.next(reviewer.id)
        if item is not None:
            return RedirectResponse(f"/item/{item.id}", 303)
        return page(request, "end", reviewer, self, progress=self.book.progress())

    def item(self, request: Request, reviewer: Reviewer) -> Response:
        item, said = self._item(request), self.book.said(request.path_params["number"], reviewer.id)
        taken = None if said else self.book.hold(item.id, reviewer.id)
        if taken is not None:
            raise Told(409, "Another reviewer has this item. Go on with the next one.")
        return self.show(request, reviewer, item, said)

    def show(
        self, request: Request, reviewer: Reviewer, item: Item, said: dict[str, Any] | None, status: int = 200, **more: Any
    ) -> Response:
        given = {"corrected": item.content["shown"] or "", "reason": "", "note": ""}
        if said:
            reason, _, note = (said["reason"] or "").partition(": ")
            given |= {"corrected": said["corrected"] or given["corrected"], "reason": reason, "note": note}
        content = {"given": given, "mistake": None, "second": False, **more}
        return page(
            request,
            "item",
            reviewer,
            self,
            status,
            item=item,
            said=said,
            reasons=[(name, REASONS[name]) for name in REASONS_OF[item.kind]],
            change=difference(item.content["shown"] or "", content["given"]["corrected"])[1] if said else None,
            negatives=_negatives(item),
            source=marked(item.content["source"], _findings(item)),
            shown=marked(item.content["shown"] or "", _findings(item)),
            findings=_findings(item),
            progress=self.book.progress(),
            **content,
        )

    def judge(self, request: Request, reviewer: Reviewer, form: dict[str, str]) -> Response:
        item = self._item(request)
        given = {name: form.get(name, "").replace("\r\n", "\n") for name in ("corrected", "reason", "note")}
        again = functools.partial(self.show, request, reviewer, item, None, given=given)
        say = speaker(language_of(request))
        try:
            verdict, corrected, reason = read(item, form.get("verdict", ""), given, reviewer.name)
        except Told as error:
            return again(error.status, mistake=say(error.text, **error.values))
        try:
            self.book.store(item.id, reviewer.id, verdict, corrected, reason, second=form.get("second") == "yes")
        except Taken as error:
            if not error.verdict:
                text = say("{by} has taken this item up since your time on it ran out.", by=error.by)
            else:
                text = say(
                    "{by} has judged this item meanwhile ({verdict}, {time}).",
                    by=error.by,
                    verdict=say(error.verdict),
                    time=error.time,
                )
            text += " " + say("Yours is not stored yet; what you wrote is below. Store it as a second opinion, or go on.")
            return again(409, mistake=text, second=True)
        except Unsure as error:
            text = say(
                "Nobody knows whether this verdict is stored: {why}. Send it again: it will be one verdict.", why=str(error)
            )
            return again(503, mistake=text)
        except BookError as error:
            text = say("This verdict is NOT stored: {why}. What you wrote is below; try again.", why=str(error))
            return again(503, mistake=text)
        return RedirectResponse("/" if form.get("then") != "mine" else "/mine", 303)

    def skip(self, request: Request, reviewer: Reviewer, form: dict[str, str]) -> Response:
        self.book.skip(self._item(request).id, reviewer.id)
        return RedirectResponse("/", 303)

    def _item(self, request: Request) -> Item:
        item = self.book.item(request.path_params["number"])
        if item is None:
            raise Told(404, "There is no such item, or it is no longer asked.")
        return item

    def picture(self, request: Request, reviewer: Reviewer) -> Response:
        item, asked = self._item(request), request.query_params.get("side", str(SIDES[1]))
        if asked not in map(str, SIDES):
            raise Told(404, NO_PAGE)
        snapshot = self.run.snapshot()
        snapshot.refuse_taken(item.shard, item.uid)
        cached = (item.shard, item.uid, asked)
        data = self.thumbnails.get(cached)
        if data is None:
            try:
                data = thumbnail(snapshot.picture(item.shard, item.uid, MAX_BYTES), int(asked))
            except BadPicture as error:
                raise NotThere(415, f"{error.reason}: {error.detail}") from error
            self.thumbnails.put(cached, data)
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=60"})

    # How far it is.

    def mine(self, request: Request, reviewer: Reviewer) -> Response:
        said = self.book.own(reviewer.id, OWN)
        return page(request, "mine", reviewer, self, said=said, most=OWN, reasons=REASONS)

    def progress(self, request: Request, reviewer: Reviewer) -> Response:
        kappas = agreement(reviews_of(self.book))
        return page(
            request, "progress", reviewer, self, progress=self.book.progress(), kappas=kappas, faults=self.filler.faults
        )


def reviews_of(book: Book) -> list[Review]:
    found = (parse_review(json.dumps(line).encode()) for line in book.lines())
    return [review for review in found if review is not None]


def read(item: Item, verdict: str, given: dict[str, str], reviewer: str) -> tuple[str, str | None, str | None]:
    """The verdict as it is stored, checked by the very reader of the review file: what is stored can always be taken in."""
    if verdict not in VERDICTS:
        raise Told(422, "Choose accept, correct or refuse.")
    corrected, reason = None, None
    shown = item.content["shown"]
    if verdict == "accept" and not (shown or "").strip():
        raise Told(422, "There is no text to accept: write one, or refuse.")
    if verdict == "accept" and characters.control_characters(shown or ""):
        raise Told(422, "The text holds control or direction characters: correct it, or refuse.")
    if verdict == "accept" and characters.clean(given["corrected"]) not in ("", characters.clean(shown or "")):
        raise Told(422, "You changed the text: store it as a correction, or undo the change and accept.")
    if verdict == "correct":
        corrected = characters.clean(given["corrected"])
        if not corrected:
            raise Told(422, "The corrected text is empty.")
        if characters.control_characters(corrected):
            raise Told(422, "The corrected text holds control or direction characters. Remove them, then save again.")
        if corrected == characters.clean(shown or ""):
            raise Told(422, "Nothing was changed in the text: accept it, or change it.")
        fault = fault_of(item.content["source"], shown or "", corrected) if item.kind == "negatives" else None
        if fault:
            raise Told(422, "These texts make no group: {fault}.", fault=fault)
    if verdict == "reject":
        if given["reason"] not in REASONS_OF[item.kind]:
            raise Told(422, "Choose a reason for refusing.")
        note = " ".join(characters.clean(given["note"]).split())
        if given["reason"] == "other" and not note:
            raise Told(422, "Say in a few words what the other reason is.")
        reason = given["reason"] + (f": {note}" if note else "")
    line = {"uid": item.uid, "column": item.content["column"], "place": item.content["place"], "source": item.content["source"]}
    line |= {"translation": shown, "verdict": verdict, "corrected": corrected, "reason": reason}
    line |= {"reviewer": reviewer, "time": "2000-01-01T00:00:00Z"}
    try:
        parse_review(json.dumps(line).encode())
    except ValueError as error:
        raise Told(422, "This cannot be stored: {why}.", why=str(error)) from error
    return verdict, corrected, reason


def _negatives(item: Item) -> list[dict[str, Any]]:
    if item.kind != "negatives":
        return []
    return [{"text": text, **mark} for text, mark in zip(item.content["shown"].split("\n"), item.content["marks"], strict=True)]


def _findings(item: Item) -> list[str]:
    """Why it was refused, if it was, and what the validators say of the two texts as they stand."""
    why = item.content.get("why") or ""
    marks = item.content["marks"] or [] if item.kind == "translation" else []
    return [*([why] if why else []), *(mark for mark in marks if mark.partition(": ")[2] not in why)]


def page(request: Request, template: str, reviewer: Reviewer | None, desk: Desk, status: int = 200, **content: Any) -> Response:
    html = pages.render(
        template,
        language_of(request),
        _PAGES,
        switch=switch(request) if request.method == "GET" else {},
        reviewer=reviewer,
        run=None,
        name=desk.run.name,
        filling=desk.filler.state(),
        **content,
    )
    return HTMLResponse(html, status, headers={"vary": "accept-language, cookie"})


def _read(desk: Desk, handler: Callable[[Request, Reviewer], Response]) -> Callable[[Request], Response]:
    return lambda request: handler(request, desk.reviewer(request))


def _change(
    desk: Desk, handler: Callable[[Request, Reviewer, dict[str, str]], Response], origins: set[str] | None
) -> Callable[[Request], Any]:
    """A POST: of a session, from these pages and nowhere else, of bounded length."""

    async def changed(request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_BODY:
                raise Told(413, "This is too long.")
        try:
            form = dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=20))
        except ValueError:
            raise Told(400, "The form cannot be read.") from None
        reviewer = await run_in_threadpool(desk.reviewer, request)
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
        foreign = origin is not None and origins is not None and origin.rstrip("/") not in origins
        if (
            foreign
            or site not in ("same-origin", "none")
            or not hmac.compare_digest(form.get("csrf", "").encode(), reviewer.csrf.encode())
        ):
            raise Told(
                403, "This form is not from this page, or from an earlier session: load the page again. Nothing was stored."
            )
        return await run_in_threadpool(handler, request, reviewer, form)

    return changed


def make_app(
    run: Run, book: Book, filler: Filler, hosts: set[str] | None, origins: set[str] | None = None, secure: bool = False
) -> Starlette:
    """hosts, origins: names and addresses under which the pages may be asked; None for any. secure: cookies over HTTPS only."""
    desk = Desk(run, book, filler, secure)

    def told(request: Request, error: Exception) -> Response:
        assert isinstance(error, Told | NotThere)
        answer = page(request, "told", None, desk, error.status, text=error.text, code=error.status, values=error.values)
        if error.status == 429:
            answer.headers["retry-after"] = "10"
        return answer

    def closed(request: Request, error: Exception) -> Response:
        return page(request, "told", None, desk, 503, text=CLOSED, code=503, values={"why": str(error)})

    def unreadable(request: Request, error: Exception) -> Response:
        return page(request, "told", None, desk, 503, text=UNREAD, code=503, values={"why": f"{type(error).__name__}: {error}"})

    def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = {404: NO_PAGE}.get(error.status_code, error.detail)
        return page(request, "told", None, desk, error.status_code, text=text, code=error.status_code, values={})

    style = pages.style() + (HERE / "review.css").read_text(encoding="utf-8")
    return Starlette(
        routes=[
            Route("/enter/{token}", desk.enter),
            Route("/language", choose),
            Route("/look.css", asset(style, "text/css")),
            Route("/look.js", asset(pages.script(), "text/javascript")),
            Route("/review.js", asset((HERE / "review.js").read_text(encoding="utf-8"), "text/javascript")),
            Route("/", _read(desk, desk.next)),
            Route("/item/{number:int}", _read(desk, desk.item), methods=["GET"]),
            Route("/item/{number:int}", _change(desk, desk.judge, origins), methods=["POST"]),
            Route("/item/{number:int}/skip", _change(desk, desk.skip, origins), methods=["POST"]),
            Route("/mine", _read(desk, desk.mine)),
            Route("/progress", _read(desk, desk.progress)),
            Route("/picture/{number:int}", _read(desk, desk.picture)),
            Route("/leave", _change(desk, desk.leave, origins), methods=["POST"]),
        ],
        middleware=[Middleware(Guard, hosts=hosts, headers=POLICY)],
        exception_handlers={
            Told: told,
            NotThere: told,
            BookError: closed,
            HTTPException: http,
            **dict.fromkeys(UNREADABLE, unreadable),
        },
    )


def name_fault(name: str) -> str | None:
    """Why a reviewer cannot be called so."""
    if not re.fullmatch(r"[\w][\w .@'’-]{0,59}", name) or characters.control_characters(name):
        return f"a reviewer's name is 1 to 60 letters, digits, spaces or any of . _ @ ' -, not {name[:60]!r}"
    return None
