import itertools

import pytest

from operators.lexicon import FAMILIES, LANGUAGES, load


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_name_in_the_files_exists(language):
    lexicon = load(language)
    for family in lexicon.families.values():
        assert {name for pair in family.near for name in pair} <= set(family.values)
        assert {value.of for value in family.values.values() if value.of} <= set(family.values)
        assert all(value.words and value.weight >= 0 for value in family.values.values())
    for family, classes in lexicon.nouns["plausible"].items():
        for name, values in classes.items():
            assert name in lexicon.nouns["classes"] and set(values) <= set(lexicon.families[family].values)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_exclusion_is_symmetric_and_never_of_oneself(language, family):
    words = load(language).families[family]
    for a, b in itertools.combinations(words.values.values(), 2):
        assert words.excludes(a, b) == words.excludes(b, a), (a.id, b.id)
        assert not words.excludes(a, a)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_word_of_a_family_has_two_meanings_that_exclude_each_other(language, family):
    words = load(language).families[family]
    for a, b in itertools.combinations(words.values.values(), 2):
        assert not (set(a.words) & set(b.words) and words.excludes(a, b)), (a.id, b.id)


@pytest.mark.parametrize(
    ("family", "a", "b", "relation"),
    [
        ("colour", "red", "blue", "excludes"),
        ("colour", "red", "crimson", "narrower"),
        ("colour", "navy", "blue", "wider"),
        ("colour", "navy", "light blue", "excludes"),
        ("colour", "crimson", "scarlet", "kin"),
        ("colour", "dark grey", "black", "near"),
        ("colour", "grey", "black", "excludes"),
        ("colour", "multicolored", "red", "near"),
        ("material", "fabric", "velvet", "narrower"),
        ("material", "metal", "wood", "excludes"),
        ("size", "tall", "narrow", "other_axis"),
        ("size", "tiny", "huge", "excludes"),
        ("state", "open", "closed", "excludes"),
        ("relation", "left of", "right of", "excludes"),
        ("relation", "behind", "left of", "near"),
        ("action", "sitting", "standing", "excludes"),
        ("action", "sitting", "eating", "other_axis"),
    ],
)
def test_what_one_value_is_to_another(family, a, b, relation):
    words = load("en").families[family]
    assert words.relation(words.values[a], words.values[b]) == relation


def test_spellings_and_synonyms_are_one_value():
    for language, family, pair in [
        ("en", "colour", ("grey", "gray")),
        ("en", "size", ("big", "large")),
        ("zh", "colour", ("灰色", "灰")),
    ]:
        first, second = ({value.id for value in load(language).lookup(word) if value.family == family} for word in pair)
        assert first == second and first
    assert load("en").same_thing("sofa", "couch") and not load("en").same_thing("sofa", "chair")


def test_the_lexicon_is_broad_enough():
    def words(language, family):
        return {word for value in load(language).families[family].values.values() if value.use for word in value.words}

    assert len(words("en", "colour")) >= 40 and len(words("zh", "colour")) >= 30
    assert len(words("en", "material")) >= 40 and len(words("zh", "material")) >= 40
    assert len(words("en", "pattern")) >= 25 and len(words("zh", "pattern")) >= 25
    assert len(words("en", "count")) >= 20


def test_an_unknown_language_is_an_error():
    with pytest.raises(ValueError, match="'de'"):
        load("de")
