"""What the served model says, through the project's own operators, prompts and client, against the scenes' truth."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.figures import Report
from benchmarks.quality.negatives import Made, attack_groups, families, judge_groups, lexical
from benchmarks.quality.truth import Mention, Truth
from benchmarks.quality.unseen import Unseen, altered, told, weaker
from demo.negatives import claim_of
from demo.scenes import Scene, Thing
from demo.words import RELATIONS
from operators import answers, boxes
from operators.base import ModelOperator, Reject
from operators.ground import Ground
from operators.model_negatives import ModelNegatives
from operators.recaption import Recaption
from operators.validators.sentences import split
from operators.verify_negatives import VerifyNegatives
from pipelines.answers import AnswerStore
from pipelines.model_client import ModelClient, ModelSettings

Ask = Callable[[Unseen], Any]


async def run(report: Report, scenes: Sequence[Unseen], given: Any) -> None:
    settings = ModelSettings(
        base_url=given.base_url, name=given.model, max_pixels=given.max_pixels, concurrency=given.concurrency
    )
    client = ModelClient(settings)
    with tempfile.TemporaryDirectory() as scratch:
        store = AnswerStore(given.answers or Path(scratch), f"quality-{random.SystemRandom().getrandbits(64):016x}")
        try:
            print(f"\nserved model: {await client.identity()}")

            def ask_of(unseen: Unseen) -> Any:
                return client.ask_for(store, unseen.sha256)

            for language in given.languages:
                await captions(report, scenes, ask_of, language)
                await grounding(report, scenes, ask_of, language, given.phrases_per_request)
                await verifier(report, scenes, ask_of, language, given.seed)
                await verified(report, scenes, ask_of, language, given)
                await planted(report, scenes, ask_of, language, given.seed)
                await written(report, scenes, ask_of, language, given)
            counts = client.counters()
            asked = {key: int(counts[key]) for key in ("requests", "from_store", "errors", "prompt_tokens", "output_tokens")}
            report.section("Requests")
            report.note("counted", asked)
        finally:
            store.close()
            await client.close()


async def each(jobs: Iterable[Awaitable[Any]], at_once: int = 32) -> list[Any]:
    """The results in order; not all samples are in memory of the loop at once."""
    gate = asyncio.Semaphore(at_once)

    async def one(job: Awaitable[Any]) -> Any:
        async with gate:
            return await job

    return await asyncio.gather(*(one(job) for job in jobs))


def reasons(report: Report, rejects: Iterable[Reject]) -> None:
    report.note("refusals by reason", dict(Counter(reject.reason for reject in rejects).most_common()))


# Captions.


async def captions(report: Report, scenes: Sequence[Unseen], ask_of: Ask, language: str) -> None:
    operator = Recaption.model_validate({"language": language})
    operator.setup()
    made = await each(operator({"uid": one.uid}, one.picture, ask_of(one)) for one in scenes)
    texts = [
        (one.scene, (columns or {}).get(f"long_caption_{language}")) for one, (columns, _) in zip(scenes, made, strict=True)
    ]
    kept = [(scene, text) for scene, text in texts if text]
    report.section(f"Captions, {language}")
    report.share("yield: captions of pictures", len(kept), len(texts))
    reasons(report, (reject for _, rejects in made for reject in rejects))
    tally: Counter[str] = Counter()
    truth = Truth(language)
    for scene, text in kept:
        _claims(scene, text, truth, tally)
    for kind in ("objects", "attributes", "relations"):
        report.share(f"{kind}: precision of claims", tally[f"{kind} right"], tally[f"{kind} said"])
        report.share(f"{kind}: recall", tally[f"{kind} found"], tally[f"{kind} there"])
    report.share("things named in full that are there as named", tally["whole right"], tally["whole said"])
    report.share("sentences with a claim, no claim false", tally["sentences right"], tally["sentences said"])
    _diversity(report, [text for _, text in kept], language)


def _claims(scene: Scene, text: str, truth: Truth, tally: Counter[str]) -> None:
    named: set[int] = set()
    attributes: set[tuple[int, str]] = set()
    pairs: set[frozenset[int]] = set()
    for sentence in split(text):
        mentions = truth.mentions(sentence)
        right = []
        for mention in mentions:
            same = [i for i, thing in enumerate(scene.things) if thing.shape == mention.shape]
            tally["objects said"] += 1
            tally["objects right"] += bool(same)
            right.append(bool(same))
            named |= set(same)
            for value in mention.values:
                fits = [i for i in same if truth.fits(value, scene.things[i]) is True]
                unsure = any(truth.fits(value, scene.things[i]) is None for i in same)
                if fits or not unsure:
                    tally["attributes said"] += 1
                    tally["attributes right"] += bool(fits)
                    right.append(bool(fits))
                attributes |= {(i, value[0]) for i in fits}
            whole = [i for i in same if all(truth.fits(value, scene.things[i]) is not False for value in mention.values)]
            tally["whole said"] += 1
            tally["whole right"] += bool(whole)
            right.append(bool(whole))
        for a, relation, b in _relations(sentence, mentions, truth.language):
            holds = [
                (i, j)
                for i, j in itertools.permutations(range(len(scene.things)), 2)
                if _named(a, scene.things[i], truth)
                and _named(b, scene.things[j], truth)
                and _stands(scene.things[i], scene.things[j], relation)
            ]
            tally["relations said"] += 1
            tally["relations right"] += bool(holds)
            right.append(bool(holds))
            pairs |= {frozenset(pair) for pair in holds}
        if mentions:
            tally["sentences said"] += 1
            tally["sentences right"] += all(right)
    tally["objects there"] += len(scene.things)
    tally["objects found"] += len(named)
    kinds = [(i, kind) for i, thing in enumerate(scene.things) for kind in thing.attributes if kind != "shape"]
    kinds = [(i, kind) for i, kind in kinds if not (kind == "size" and scene.things[i].size == "medium")]
    tally["attributes there"] += len(kinds)
    tally["attributes found"] += len(attributes & set(kinds))
    related = [p for p in itertools.combinations(scene.things, 2) if scene.relation(*p)]
    tally["relations there"] += len(related)
    tally["relations found"] += len(pairs)


def _named(mention: Mention, thing: Thing, truth: Truth) -> bool:
    return thing.shape == mention.shape and all(truth.fits(value, thing) is not False for value in mention.values)


def _stands(a: Thing, b: Thing, relation: str) -> bool:
    """Whether `a` is wholly on that side of `b`; several relations can hold."""
    return {
        "left": a.box[2] <= b.box[0],
        "right": a.box[0] >= b.box[2],
        "above": a.box[3] <= b.box[1],
        "below": a.box[1] >= b.box[3],
    }[relation]


SAYS = {
    "left": r"left (?:side )?of",
    "right": r"right (?:side )?of",
    "above": r"above|over",
    "below": r"below|under|underneath|beneath",
}
SAYS_ZH = {"left": "左[边侧面]|左方", "right": "右[边侧面]|右方", "above": "上[面方]", "below": "下[面方]"}


def _relations(sentence: str, mentions: list[Mention], language: str) -> list[tuple[Mention, str, Mention]]:
    """(a, relation, b) of neighbouring mentions: "a, to the left of b" / "a，位于b的左边"."""
    found = []
    for a, b in itertools.pairwise(mentions):
        between, after = sentence[a.end : b.start], sentence[b.end : b.end + 6]
        for relation in RELATIONS:
            before = language == "en" and re.search(rf"\b(?:{SAYS[relation]}) $", between.rstrip() + " ")
            behind = language == "zh" and re.search("在|位于", between) and re.match(rf"的?(?:{SAYS_ZH[relation]})", after)
            if before or behind:
                found.append((a, relation, b))
    return found


def _diversity(report: Report, texts: list[str], language: str) -> None:
    units = [re.findall(r"[a-z'-]+" if language == "en" else r"[\u4e00-\u9fff]", text.lower()) for text in texts]
    for n in (1, 2, 3):
        grams = [tuple(words[i : i + n]) for words in units for i in range(len(words) - n + 1)]
        report.note(f"distinct-{n}", f"{len(set(grams)) / max(1, len(grams)):.3f}  of {len(grams):,}")
    openings = Counter(tuple(words[: 4 if language == "en" else 6]) for words in units)
    report.share("share of the commonest opening", max(openings.values(), default=0), len(texts))


# Boxes.


async def grounding(report: Report, scenes: Sequence[Unseen], ask_of: Ask, language: str, together: int) -> None:
    """Boxes of every thing's expression, and of as many things that are not there."""
    operator = Ground(use_source_boxes=False, languages=(language,), phrases_per_request=together)
    column = f"phrases_{language}"
    asked: list[tuple[Unseen, dict[str, Thing | None]]] = []
    for one in scenes:
        rng = random.Random(f"ground {language} {one.uid}")
        phrases: dict[str, Thing | None] = {thing.short(language): thing for thing in one.scene.things}
        claims = [altered(claim_of(thing), rng) for thing in one.scene.things]
        for claim in claims:
            if not any(claim.fits(thing) for thing in one.scene.things):
                phrases.setdefault(claim.text(language), None)
        asked.append((one, dict(rng.sample(list(phrases.items()), len(phrases)))))
    samples = [
        {"uid": one.uid, column: [{"text": text, "start": 0, "end": len(text), "head": None} for text in phrases]}
        for one, phrases in asked
    ]
    made = await each(operator(sample, one.picture, ask_of(one)) for sample, (one, _) in zip(samples, asked, strict=True))
    report.section(f"Boxes, {language}")
    given = half = three = present = absent = kept_away = 0
    for (one, phrases), (columns, _) in zip(asked, made, strict=True):
        found: dict[str, list[Any]] = {}
        for region in columns["regions"]:
            found.setdefault(region["short"], []).append(region["box"])
        for text, thing in phrases.items():
            if thing is None:
                absent += 1
                kept_away += text not in found
                continue
            present += 1
            for box in found.get(text, [])[:1]:
                value = boxes.iou(box, one.scene.normalised(thing))
                given, half, three = given + 1, half + (value >= 0.5), three + (value >= 0.75)
    report.share("yield: phrases that are there and got a box", given, present)
    report.share("precision at IoU 0.5", half, given)
    report.share("precision at IoU 0.75", three, given)
    report.share("recall at IoU 0.5", half, present)
    report.share("absent phrases without a box", kept_away, absent)
    reasons(report, (reject for _, rejects in made for reject in rejects))


# The verifier.


async def verifier(report: Report, scenes: Sequence[Unseen], ask_of: Ask, language: str, seed: int) -> None:
    """Ten statements of one box, five of them true, in random order; asked through the prompt itself."""
    truth = Truth(language)

    async def one(unseen: Unseen) -> tuple[list[bool], list[bool] | None]:
        rng = random.Random(f"verifier {seed} {language} {unseen.uid}")
        thing = rng.choice(unseen.scene.things)
        mine = claim_of(thing)
        pool = list(
            dict.fromkeys(c.text(language) for c in (mine, *weaker(mine), *weaker(weaker(mine)[0] if weaker(mine) else mine)))
        )
        right = [rng.choice(pool) for _ in range(5)]
        wrong = [altered(mine, rng).text(language) for _ in range(40)]
        wrong += [other.short(language) for other in unseen.scene.things if other is not thing]
        wrong = list(dict.fromkeys(text for text in wrong if truth(text, thing) is False))
        statements = [(text, True) for text in right] + [(text, False) for text in rng.sample(wrong, 5)]
        rng.shuffle(statements)
        ask = ask_of(unseen)
        box = boxes.to_pixels(unseen.scene.normalised(thing), *ask.sent_size(unseen.picture.size))
        answer = await ask("verify_negatives", {"box": box, "texts": [text for text, _ in statements]}, unseen.picture)
        try:
            return [is_true for _, is_true in statements], answers.read_verdicts(answer, 10)
        except answers.Unusable:
            return [], None

    found = await each(one(unseen) for unseen in scenes)
    usable = [(truths, said) for truths, said in found if said is not None]
    report.section(f"Verifier, {language}")
    report.share("yield: answers that can be used", len(usable), len(found))
    flat = [pair for truths, said in usable for pair in zip(truths, said, strict=True)]
    true = report.share("true statements found true", sum(s for t, s in flat if t), sum(t for t, _ in flat))
    false = report.share("false statements found false", sum(not s for t, s in flat if not t), sum(not t for t, _ in flat))
    report.note("balanced accuracy", f"{(true.value + false.value) / 2:.1%}")


async def _verify(made: Sequence[Made], ask_of: Ask, **settings: Any) -> tuple[list[Made], list[Reject]]:
    """The groups after the verifier; the regions of one picture together, as a run has them."""
    operator: ModelOperator = VerifyNegatives(**settings)
    operator.setup()
    pictures = [list(rows) for _, rows in itertools.groupby(made, key=lambda row: row[1].uid)]

    async def one(rows: list[Made]) -> tuple[list[Made], list[Reject]]:
        unseen = rows[0][1]
        sample = {"uid": unseen.uid, "regions": [told.region() for told, _, _ in rows], "negatives": [g for _, _, g in rows]}
        columns, rejects = await operator(sample, unseen.picture, ask_of(unseen))
        assert columns is not None
        return [(told, unseen, group) for (told, _, _), group in zip(rows, columns["negatives"], strict=True)], rejects

    done = await each(one(rows) for rows in pictures)
    return [row for rows, _ in done for row in rows], [reject for _, rejects in done for reject in rejects]


async def verified(report: Report, scenes: Sequence[Unseen], ask_of: Ask, language: str, given: Any) -> None:
    """Groups of the lexical engine, some made from wrong expressions, before and after the verifier."""
    truth = Truth(language)
    made, _ = lexical(scenes, language, given.wrong_positives, given.seed)
    report.section(f"Negatives verified, {language}, {given.wrong_positives:.0%} of the expressions made wrong")
    judge_groups(report, "before", made, truth)
    after, rejects = await _verify(made, ask_of)
    judge_groups(report, "after", after, truth, goals=True)
    had = sum(bool(group) for _, _, group in made)
    report.share("after: yield, groups of those before", sum(bool(group) for _, _, group in after), had)
    attack_groups(report, "after", after, given.seed)
    reasons(report, rejects)


async def planted(report: Report, scenes: Sequence[Unseen], ask_of: Ask, language: str, seed: int) -> None:
    """One negative of each group replaced by a text that is in truth true of its thing: how many are kept?"""
    made, _ = lexical(scenes, language, 0.0, seed)
    rows: list[Made] = []
    bad: list[str] = []
    for one, unseen, group in made:
        claims = weaker(claim_of(one.thing))
        if not group or not claims:
            continue
        rng = random.Random(f"planted {seed} {language} {unseen.uid} {one.text}")
        place, text = rng.randrange(10), rng.choice(claims).text(language)
        rows.append((one, unseen, [{**n, "text": text} if i == place else n for i, n in enumerate(group)]))
        bad.append(text)
    report.section(f"True texts planted among the negatives, {language}")
    for name, settings in {"words and model": {}, "model alone": {"words": False}}.items():
        after, _ = await _verify(rows, ask_of, **settings)
        kept = sum(text in [n["text"] for n in group] for text, (_, _, group) in zip(bad, after, strict=True))
        report.share(f"{name}: true texts kept", kept, len(rows), "≤ 5 %")
        report.share(f"{name}: yield, groups kept or corrected", sum(bool(g) for _, _, g in after), len(rows))


async def written(report: Report, scenes: Sequence[Unseen], ask_of: Ask, language: str, given: Any) -> None:
    """Groups that the model writes, alone and mixed with the lexicon's, before and after the verifier."""
    truth = Truth(language)
    for engine in ("llm", "mixed"):
        operator = ModelNegatives.model_validate({"engine": engine, "fill": "none"})
        operator.setup()

        async def one(unseen: Unseen, operator: ModelNegatives = operator) -> tuple[list[Made], list[Reject]]:
            said = told(unseen.scene, language, 0.0, random.Random(0))
            sample = {"uid": unseen.uid, "regions": [region.region() for region in said]}
            columns, rejects = await operator(sample, None, ask_of(unseen))
            assert columns is not None
            return [(region, unseen, group) for region, group in zip(said, columns["negatives"], strict=True)], rejects

        done = await each(one(unseen) for unseen in scenes)
        made = [row for rows, _ in done for row in rows]
        report.section(f"Negatives written by the model, engine {engine}, {language}")
        judge_groups(report, "before", made, truth)
        families(report, "before", made)
        attack_groups(report, "before", made, given.seed)
        reasons(report, (reject for _, rejects in done for reject in rejects))
        if any(group for _, _, group in made):
            after, rejects = await _verify(made, ask_of)
            judge_groups(report, "after", after, truth, goals=True)
            reasons(report, rejects)
