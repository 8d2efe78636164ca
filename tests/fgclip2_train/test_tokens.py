"""Texts to token rows as FG-CLIP 2 takes them, and tokenizers that would give others."""

import json

import pytest
import torch

from fgclip2_train.data.tokens import load_texts


def test_token_rows_are_right_padded_lower_case_and_of_fixed_length(texts, tmp_path):
    texts.save(tmp_path)
    for tokenizer in (texts, load_texts(tmp_path)):
        ids = tokenizer(["Red CIRCLE", "红色圆形", "red circle " * 50], 12)
        assert ids.shape == (3, 12) and torch.equal(ids[0], tokenizer(["red circle"], 12)[0])
        assert ids[0, -1] == 0 and ids[2, -1] != 0


def test_token_rows_are_those_of_the_tokenizers_own_call(texts):
    said = ["a red circle", "", "红色圆形 and a ball", "red circle " * 50, " \t", "🦊"]
    own = texts.tokenizer(said, padding="max_length", truncation=True, max_length=16)["input_ids"]
    assert texts(said, 16).tolist() == own


def test_nobody_is_asked_whether_to_run_the_code_beside_a_model(texts, tmp_path, monkeypatch):
    code = {"AutoConfig": "configuration_x.X"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", "auto_map": code}))
    monkeypatch.setattr("builtins.input", lambda question="": pytest.fail("asked"))
    with pytest.raises(ValueError, match="no tokenizer there"):
        load_texts(tmp_path)


def test_half_a_character_is_no_text(texts):
    with pytest.raises(ValueError, match=r"half a surrogate pair: 'red \\udcff'"):
        texts(["a", "red \udcff"], 12)


def test_a_tokenizer_whose_texts_do_not_end_is_refused_by_its_folder(texts, tmp_path):
    texts.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": None}))
    with pytest.raises(ValueError, match=rf"{tmp_path}: the tokenizer does not end a text with an end-of-text token"):
        load_texts(tmp_path)


def test_a_folder_without_tokenizer_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="no tokenizer there"):
        load_texts(tmp_path)


@pytest.mark.parametrize(("name", "text"), [("tokenizer.json", "{"), ("tokenizer.json", "{}"), ("tokenizer_config.json", "[]")])
def test_a_damaged_tokenizer_is_not_called_a_missing_one(name, text, texts, tmp_path):
    texts.save(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/tokenizer\.json, or tokenizer_config\.json beside it: damaged \("):
        load_texts(tmp_path)
