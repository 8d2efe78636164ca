"""The data set card: what a reader of a data paper looks for, and no stranger's markup."""

import json

import pytest

from pipelines.config import ConfigError
from pipelines.exports import LAYOUTS, About, ExportSettings
from pipelines.exports.card import write_card
from pipelines.exports.quality import read_quality
from pipelines.exports.tally import Tally


def tally():
    return Tally(
        {
            "samples": {"all": 4},
            "texts": {"en short": 4, "zh long": 2},
            "origins": {"en short by source": 4, "zh long by model": 2},
            "regions": {"en": 6},
            "groups": {"en": 3},
            "families": {"colour": 20, "size": 10},
            "sources": {"laion": 4},
            "licences": {"CC-BY-4.0": 3, "not stated": 1},
            "models": {"qwen": 2},
            "prompts": {"long_caption_zh@1": 2},
            "operators": {"recaption@1": 2},
        }
    )


def card(tmp_path, **about):
    described = About("Set", "A set.", {"laion": "Links."}, "1.0.0", **about)
    write_card(tmp_path, LAYOUTS["huggingface"](ExportSettings()), described, tally())
    return (tmp_path / "README.md").read_text("utf-8")


def section(text, title):
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_card_says_composition_process_models_licences_limits(tmp_path):
    process = (("download", "download", 5, "http_404 3"), ("long_caption_zh", "recaption", 4, ""))
    text = card(tmp_path, process=process, contact="data@example.org")
    titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert titles == ["Composition", "Sources", "Licences", "How it was made", "Quality", "Known limits", "Takedown"]
    assert "| texts zh long | 2 | 0.50 |" in section(text, "Composition")
    assert "| `zh long by model` | 2 |" in text and "| `colour` | 20 |" in text
    assert "| `download` | download | 5 | http\\_404 3 |" in section(text, "How it was made")
    assert "`data@example.org`" in section(text, "Takedown")
    assert "No licence of the picture is stated for 1 sample." in section(text, "Known limits")


def test_what_is_not_known_is_said_to_be_missing(tmp_path):
    text = card(tmp_path)
    assert "Not measured on this set" in section(text, "Quality") and "No contact is given yet" in section(text, "Takedown")


def test_figures_stand_with_their_cases_and_intervals(tmp_path):
    measured, said = tmp_path / "quality.json", tmp_path / "verdicts.json"
    figure = {"value": 0.9, "interval": [0.85, 0.94], "n": 200}
    measured.write_text(
        json.dumps({"negatives": {"false of their box": figure, "seconds": 3, "none": {"value": None, "n": 0}}})
    )
    said.write_text(
        json.dumps({"verdicts": {"accept": 90, "reject": 10}, "kappas": [["Li", "Wang", 0.8, 40], ["Li", "Zu", None, 2]]})
    )
    found = (*read_quality(measured), *read_quality(said))
    assert found[0] == ("negatives", "false of their box", "90.0%", "200 cases, 85.0% to 94.0%")
    assert found[1] == ("people's verdicts", "accept", "90.0%", "100 pairs, 82.6% to 94.5%")
    assert found[3:] == (
        ("people's verdicts", "Cohen's κ of Li and Wang", "0.80", "40 pairs judged by both"),
        ("people's verdicts", "Cohen's κ of Li and Zu", "not defined", "2 pairs judged by both"),
    )
    assert "| negatives | false of their box | 90.0% | 200 cases, 85.0% to 94.0% |" in section(
        card(tmp_path, quality=found), "Quality"
    )


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"verdicts": 3}', '{"a": {"b": {"value": "x", "interval": [1]}}}', '{"verdicts": {}}']
)
def test_a_file_without_figures_is_a_mistake_of_the_call(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match="--quality"):
        read_quality(tmp_path / "x.json")


def test_words_of_strangers_are_no_markup(tmp_path):
    evil = "<script>alert(1)</script>|`[x](y)`\n# head"
    text = card(tmp_path, contact=evil, process=(("a", evil, 1, evil),), quality=((evil, evil, "1", "1"),))
    body = text.split("---\n", 2)[2]
    outside = "".join(piece for i, piece in enumerate(body.split("`")) if i % 2 == 0)  # not in code
    assert "<script" not in outside.replace("\\<", "") and "\n# head" not in body
