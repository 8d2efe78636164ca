"""Scores on vectors whose answer is known, FG-OVD files, and starting from a plain SigLIP 2 folder."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import Siglip2Config, Siglip2Model

from fgclip2_train.data.tokens import train_tokenizer
from fgclip2_train.evaluation.encode import Encoder
from fgclip2_train.evaluation.run import evaluate
from fgclip2_train.evaluation.scores import classify, picks_positive, ranks, recall
from fgclip2_train.model.configuration import sized
from fgclip2_train.model.initialise import from_scratch, load_model


def test_any_picture_with_the_same_text_is_right():
    pictures = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1.0]])
    texts = torch.eye(2)
    score = recall(pictures, texts, [(0, 0), (1, 0), (2, 1)])  # pictures 0 and 1 are described alike
    assert (score["image_to_text"], score["text_to_image"]) == (1.0, 1.0)
    wrong = recall(pictures, texts, [(0, 1), (1, 0), (2, 1)])
    assert wrong["image_to_text"] == pytest.approx(2 / 3) and wrong["text_to_image"] == 0.5


def test_pictures_without_a_text_are_only_distractors():
    score = recall(torch.eye(3), torch.eye(3)[:1], [(0, 0)])
    assert (score["image_to_text"], score["text_to_image"], score["pictures"]) == (1.0, 1.0, 3)


@pytest.mark.parametrize("copies", [7, 33, 61])
def test_equal_pictures_are_a_tie_at_any_place_and_the_first_of_them_wins(copies):
    """A product of one row and a matrix rounds its last columns otherwise than the others."""
    random = torch.Generator().manual_seed(0)
    text, picture = (torch.nn.functional.normalize(torch.randn(1, 768, generator=random), dim=-1) for _ in range(2))
    pictures = picture.repeat(copies, 1)
    found = [ranks(text, pictures, [(0, own)]).item() for own in range(copies)]
    assert found == list(range(copies))
    assert [ranks(text, pictures, [(0, own)], lambda cosine: cosine).item() for own in range(copies)] == found[::-1]


def test_a_positive_that_ties_the_best_counts_where_the_protocol_says_so():
    region, ties = torch.tensor([1.0, 0.0]), torch.tensor([[1.0, 0], [1.0, 0]])
    assert picks_positive(region, ties, "hit") and not picks_positive(region, ties, "miss")
    assert not picks_positive(region, torch.tensor([[0.0, 1], [1.0, 0]]), "hit")


def test_a_negative_equal_to_the_positive_is_a_tie_at_any_place_of_the_group():
    """A product of matrices rounds some rows differently, so that one in four of these would be no tie."""
    vectors = torch.randn(40, 12, 768, generator=torch.Generator().manual_seed(0))
    for number, (region, *group) in enumerate(torch.nn.functional.normalize(vectors, dim=-1)):
        texts = torch.stack(group)
        texts[0] = torch.nn.functional.normalize(region + 0.1 * texts[0], dim=-1)  # nearer than any other
        texts[1 + number % 10] = texts[0]
        assert picks_positive(region, texts, "hit") and not picks_positive(region, texts, "miss")


def test_boxes_are_classified_among_all_phrases():
    assert classify(torch.eye(2), torch.eye(2), torch.tensor([0, 0]))["top1"] == 0.5


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    texts = train_tokenizer(["a red circle", "红色圆形"], 400)
    tiny = {"width": 16, "layers": 1, "heads": 2, "mlp": 16, "positions": 24, "keep": 20}
    return Encoder(from_scratch(sized(**tiny, vocabulary=len(texts)), 0, 2.3, -6.0).eval(), texts, "official", batch=2)


def test_features_do_not_depend_on_what_else_is_in_the_batch(encoder):
    pictures = [
        Image.new("RGB", size, colour) for size, colour in (((200, 150), "red"), ((900, 700), "blue"), ((60, 90), "green"))
    ]
    boxes = [[[0, 0, 0.5, 0.5]], [], [[0.2, 0.2, 1, 1], [0, 0, 1, 1]]]
    whole, parts = encoder.pictures(pictures, boxes)
    for index, picture in enumerate(pictures):
        alone, (own,) = encoder.pictures([picture], [boxes[index]])
        torch.testing.assert_close(whole[index], alone[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(parts[index], own, rtol=0, atol=1e-5)


def test_missing_sets_are_told_before_a_model_is_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="set shards: no shard matches"):
        evaluate(tmp_path / "no model", str(tmp_path / "*.tar"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": 3}, "--limit is of --shards"),
        ({"pictures": Path("p")}, "--pictures is of --fgovd"),
        ({"shards": "*.tar", "patches": 0}, r"patches.*greater than or equal to 1"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(options, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        evaluate(tmp_path, **options)


def test_a_plain_siglip2_folder_is_a_start(tmp_path):
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = tower | {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    siglip = Siglip2Model(Siglip2Config(text_config=text, vision_config=tower))
    siglip.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in siglip.state_dict().items())
    assert torch.equal(state["boxtext_head.weight"], state["text_model.head.weight"])
    assert state["text_model.embeddings.position_embedding_res.weight"].shape == (196, 16)


def test_a_folder_of_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"model_type is 'bert'; expected 'fgclip2'.*'siglip2'"):
        load_model(tmp_path)
