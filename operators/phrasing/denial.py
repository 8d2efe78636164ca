"""Whether an English caption says of a thing that it is not there: "no people", "neither a dog nor a cat", "lacks a roof".

Read from spaCy's parse. A denial reaches the objects of its verb, and what is told of the denied thing ("no man with a hat"); a
thing with "the", "this" or an owner is taken to be there unless it is itself what is denied ("no person on the empty street").
"""

from __future__ import annotations

from typing import Any

NO = {"no", "neither", "any", "what", "which", "whatever"}
NOT = {"not", "n't", "n’t", "never", "neither", "nor", "nowhere", "hardly", "scarcely", "barely"}
NOBODY = {"none", "nobody", "nothing", "neither"}
WITHOUT = {"without", "unlike", "except", "minus", "sans", "lacking"}
INSTEAD = {
    "instead of",
    "rather than",
    "devoid of",
    "free of",
    "free from",
    "void of",
    "bare of",
    "empty of",
    "lack of",
    "absence of",
}
ONLY = {"but", "only", "just"}
SEEN = {"see", "show", "find", "depict", "include", "picture"}
"""Of these a denial in the passive is of the thing itself, even of "the dog"."""
LACKS = {"lack", "miss", "omit", "exclude"}
DEFINITE = {"the", "this", "that", "these", "those"}
SUBJECTS = {"nsubj", "nsubjpass"}
OBJECTS = {"dobj", "attr", "nsubjpass", "oprd"}


def denied(token: Any) -> bool:
    """token: a noun."""
    if _itself(token):
        return True
    head = token.head
    if token.dep_ in ("conj", "appos"):
        return head.pos_ in ("NOUN", "PROPN") and _shared(token) and denied(head)
    if token.dep_ == "pobj":
        before = token.doc[head.i - 1].lower_ if head.i else ""
        if head.lower_ in WITHOUT or before == "not":
            return True
        return _indefinite(token) and before not in ONLY and _reached(head.head)
    if head.pos_ not in ("VERB", "AUX") or token.dep_ not in OBJECTS | SUBJECTS or _before(token) in ONLY:
        return False
    if token.dep_ == "nsubj":
        # "Nowhere is a car to be seen": behind its verb
        return token.i > head.i and _indefinite(token) and _clause(head)
    if token.dep_ == "nsubjpass":
        return (head.lemma_ in SEEN or _indefinite(token)) and _clause(head)
    if _nobody(head):
        return _indefinite(token)
    return head.lemma_ in LACKS or _clause(head) or (_indefinite(token) and head.dep_ in ("acl", "relcl") and _reached(head))


def _itself(token: Any) -> bool:
    doc, left = token.doc, token.left_edge.i
    if any(child.dep_ == "det" and child.lower_ in NO for child in token.children):
        return True
    for k in (child.i for child in token.lefts if child.lower_ in NOT and child.dep_ != "det"):
        if doc[k + 1].lower_ != "only":
            return True
    before = [word.lower_ for word in doc[max(0, left - 2) : left]]
    return before[-1:] in (["not"], ["nor"], ["neither"], ["never"]) or " ".join(before) in INSTEAD


def _shared(token: Any) -> bool:
    """Whether the denial of the first of several things is meant for this one too."""
    joined = _before(token)
    if joined in ONLY:
        return False
    if not any(child.dep_ in ("det", "nummod") for child in token.children):
        return True
    between = {word.lower_ for word in token.doc[token.head.i : token.i]} | {word.lower_ for word in token.children}
    return joined != "and" and bool(between & {"or", "nor"})


def _before(token: Any) -> str:
    """The word before all that belongs to the noun."""
    first = token.left_edge
    if first.lower_ in ONLY:
        return str(first.lower_)
    return str(token.doc[first.i - 1].lower_) if first.i else ""


def _indefinite(token: Any) -> bool:
    return not any(child.dep_ == "poss" or (child.dep_ == "det" and child.lower_ in DEFINITE) for child in token.children)


def _reached(owner: Any) -> bool:
    """What hangs on `owner` shares its denial: a clause that is denied, or a thing."""
    if owner.dep_ in ("acl", "relcl") and _clause(owner):
        return True
    if owner.dep_ in ("acl", "relcl", "prep"):
        return owner.head.i != owner.i and _reached(owner.head)
    return denied(owner) if owner.pos_ in ("NOUN", "PROPN") else owner.pos_ in ("VERB", "AUX") and _clause(owner)


def _clause(verb: Any) -> bool:
    """Whether the verb is denied, by a word of its own or by a subject that is nobody."""
    for child in verb.children:
        if child.lower_ in NOT and child.dep_ in ("neg", "advmod", "preconj", "cc"):
            return True
    if _nobody(verb):
        return True
    if verb.dep_ == "xcomp" or (verb.dep_ == "conj" and any(child.lower_ in ("or", "nor") for child in verb.head.children)):
        return (
            not any(child.dep_ in SUBJECTS for child in verb.children)
            and verb.head.pos_ in ("VERB", "AUX")
            and _clause(verb.head)
        )
    return False


def _nobody(verb: Any) -> bool:
    return any(
        child.dep_ in SUBJECTS and child.i < verb.i and (child.lower_ in NOBODY or _itself(child)) for child in verb.children
    )
