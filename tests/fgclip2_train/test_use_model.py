"""Scores, dense maps, boxes; and checkpoints that are refused before anything is computed with them."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from use_kit import bomb, encoded, make_checkpoint, picture

from fgclip2_train.data import images
from fgclip2_train.use.boxes import best_rectangle, find_boxes, otsu, rectangles
from fgclip2_train.use.dense import dense_maps, draw
from fgclip2_train.use.pictures import BadPicture, open_picture
from fgclip2_train.use.scores import score
from fgclip2_train.use.towers import Towers, load

LONG = "a red circle beside a blue square " * 6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def towers(checkpoint) -> Towers:
    return load(checkpoint, device="cpu")


def test_scores_are_the_sigmoid_losss_probabilities_by_the_walk_that_holds_the_text(towers):
    pictures, texts = [picture(0), picture(1, (300, 120))], ["A Red Circle", LONG, "红色圆形"]
    result = score(towers, pictures, texts)
    assert result.walks == ["short", "long", "short"]
    model = towers.encoder.model
    for number, (text, walk) in enumerate(zip(texts, result.walks, strict=True)):
        vector = towers.encoder.words([text.lower()], walk)[0]
        for row, image in enumerate(pictures):
            cosine = towers.encoder.pictures([image])[0][0] @ vector
            chance = torch.sigmoid(model.logit_scale.exp() * cosine + model.logit_bias)
            torch.testing.assert_close(result.cosine[row, number], cosine, rtol=0, atol=1e-5)
            torch.testing.assert_close(result.probability[row, number], chance[0], rtol=0, atol=1e-5)


def test_a_text_is_long_only_where_the_short_walk_would_cut_it(towers):
    fits = towers.encoder.model.lengths[0]
    for words in range(1, 40):
        text = " ".join(["red"] * words)
        (walk,) = towers.walks([text])
        assert (walk == "long") == (len(towers.encoder.texts.tokenizer(text)["input_ids"]) > fits)


def test_a_text_beyond_its_walk_is_told(towers):
    short, long = towers.encoder.model.lengths
    tokens = {words: len(towers.encoder.texts.tokenizer(" ".join(["red"] * words))["input_ids"]) for words in range(1, 120)}
    for words, count in tokens.items():
        text = " ".join(["red"] * words)
        assert bool(towers.cut([text])) == (count > long) and bool(towers.cut(["a", text], "box")) == (count > short)
    assert max(tokens.values()) > long and towers.cut([]) == []


def test_vectors_do_not_depend_on_the_other_pictures_of_a_batch(towers):
    wide, small = picture(0, (400, 200)), picture(1, (40, 60))
    together = towers.pictures([wide, small, picture(2)])
    torch.testing.assert_close(together[1], towers.pictures([small])[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(together, towers.encoder.pictures([wide, small, picture(2)])[0], rtol=0, atol=1e-5)


def test_a_picture_of_another_mode_is_refused(towers):
    with pytest.raises(ValueError, match=r"mode RGBA, where RGB ones are taken"):
        towers.pictures([picture(0).convert("RGBA")])


@pytest.mark.parametrize("patches", [16, 64, 400])
def test_dense_maps_come_in_any_resolution_and_are_drawn(towers, patches):
    image = picture(3, (320, 200))
    phrases = ["a red circle", "蓝色方块", "x" * 300]
    maps = dense_maps(towers, image, phrases, patches)
    assert maps.shape[0] == 3 and 0.7 * patches <= maps[0].size <= patches and maps.shape[2] > maps.shape[1]
    assert np.abs(maps).max() <= 1 + 1e-5
    sheet = draw(image, phrases, maps, boxes=[[[0.1, 0.1, 0.5, 0.5]], [], []])
    colours = sheet.convert("RGB").getcolors(1 << 24)
    assert sheet.width > 700 and colours is not None and len(colours) > 500


def test_a_map_without_differences_is_drawn_too():
    flat = np.zeros((1, 4, 4), dtype=np.float32)
    assert draw(picture(0), ["a"], flat).size[0] > 0


def test_the_box_is_where_the_map_is_high():
    values = np.full((8, 12), 0.1, dtype=np.float32)
    values[2:5, 3:9] = 0.8
    values[6:8, 10:12] = 0.7
    assert rectangles(values, 1) == [(2, 3, 5, 9)]
    assert rectangles(values, 5) == [(2, 3, 5, 9), (6, 10, 8, 12)]
    assert 0.1 < otsu(values) < 0.7


def test_what_only_resembles_the_phrase_stays_outside():
    values = np.full((8, 12), 0.1, dtype=np.float32)
    values[2:5, 3:9] = 0.5
    values[6:8, 10:12] = 0.9
    assert rectangles(values, 3) == [(6, 10, 8, 12)]


def test_the_best_rectangle_is_the_best_of_all():
    rng = np.random.default_rng(0)
    for _ in range(10):
        weights = rng.standard_normal((4, 5))
        y1, x1, y2, x2 = best_rectangle(weights)
        every = [weights[a:b, c:d].sum() for a in range(4) for b in range(a + 1, 5) for c in range(5) for d in range(c + 1, 6)]
        assert weights[y1:y2, x1:x2].sum() == pytest.approx(max(every))


def test_a_flat_map_gives_the_whole_picture():
    assert rectangles(np.full((3, 4), 0.5, dtype=np.float32), 3) == [(0, 0, 3, 4)]


def test_boxes_carry_the_similarity_of_their_region_vector(towers):
    image = picture(5, (256, 256))
    found = find_boxes(towers, image, ["a red circle", "红色圆形"], most=2)
    assert len(found) == 2
    for phrase, own in zip(["a red circle", "红色圆形"], found, strict=True):
        assert 1 <= len(own) <= 2
        for box in own:
            x1, y1, x2, y2 = box.box
            assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
            _, (vectors,) = towers.encoder.pictures([image], [[box.box]])
            word = towers.encoder.words([phrase], "box")[0]
            assert box.similarity == pytest.approx(float(vectors[0] @ word), abs=1e-5)


def test_half_precision_is_near_full_and_another_identity(checkpoint, towers):
    half = load(checkpoint, device="cpu", precision="bf16")
    assert half.identity() != towers.identity() and half.digest == towers.digest
    assert (half.scale, half.bias) == (towers.scale, towers.bias)
    cosines = (half.pictures([picture(0)]) * towers.pictures([picture(0)])).sum()
    assert cosines > 0.99


# -- pictures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_good_pictures_are_decoded_as_in_training(form):
    data = encoded(picture(7), form)
    assert np.array_equal(np.asarray(open_picture(data)), np.asarray(images.decode(data)))


def clear(mode: str) -> Image.Image:
    """Half of it green, the other half transparent, with red hidden there."""
    image = Image.new("RGBA", (8, 8), (0, 128, 0, 255))
    image.paste((255, 0, 0, 0), (0, 0, 4, 8))
    return image.convert(mode)


DEEP = np.arange(64).reshape(8, 8)


@pytest.mark.parametrize("decoded", [images.decode, open_picture])
def test_transparency_is_white_and_many_bits_are_scaled_down(decoded):
    for data in (encoded(clear("RGBA")), encoded(clear("P")), encoded(clear("RGBA"), "WEBP")):
        seen = decoded(data)
        assert seen.mode == "RGB" and seen.getpixel((1, 1)) == (255, 255, 255)
        assert np.abs(np.array(seen.getpixel((6, 1))) - (0, 128, 0)).max() < 8
    assert decoded(encoded(clear("LA"))).getpixel((1, 1)) == (255, 255, 255)
    for values, form in (
        (DEEP.astype(np.uint16) * 1000, "PNG"),
        (DEEP.astype(np.int32) * 1000, "TIFF"),
        (DEEP.astype(np.float32) * 1000, "TIFF"),
        (DEEP.astype(np.float32) * 1000 / 257, "TIFF"),
        (DEEP.astype(np.float32) * 1000 / 65535, "TIFF"),
    ):
        grey = np.asarray(decoded(encoded(Image.fromarray(values), form)))[..., 0]
        assert np.abs(grey - DEEP * 1000 / 257).max() <= 1


def test_pictures_are_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    import io

    data = io.BytesIO()
    picture(1, (60, 40)).save(data, "JPEG", exif=exif)
    assert open_picture(data.getvalue()).size == (40, 60)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>no</html>", "not a picture"),
        (encoded(picture(0), "JPEG")[:400], "cannot be decoded"),
        (encoded(picture(0), "AVIF")[:-60], "cannot be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (bomb(), "too many pixels"),
        (bomb(9_000), "too many pixels"),
        (encoded(Image.new("1", (70_000, 1))), "too many pixels"),
    ],
)
def test_bad_pictures_have_a_reason(data, reason):
    with pytest.raises(BadPicture) as caught:
        open_picture(data)
    assert caught.value.reason == reason


# -- checkpoints that do not do -----------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    return make_checkpoint(tmp_path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no checkpoint there"):
        load(tmp_path)


def test_weights_of_other_shapes_are_refused(own):
    config = json.loads((own / "config.json").read_text())
    config["text_config"]["vocab_size"] += 7
    (own / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"not the weights that its config\.json describes.*token_embedding"):
        load(own)


def test_missing_weights_are_never_made_up(own):
    weights = load_file(own / "model.safetensors")
    del weights["boxtext_head.weight"]
    save_file(weights, own / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks boxtext_head\.weight"):
        load(own)


def test_weights_cut_short_or_not_finite_are_refused(own):
    file = own / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged or cut short"):
        load(own)
    file.write_bytes(whole)
    weights = load_file(file)
    weights["longtext_head.bias"][3] = float("nan")
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"longtext_head.bias holds numbers that are not finite"):
        load(own)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors"):
        load(own)


def test_what_only_training_needs_may_be_missing(own):
    weights = load_file(own / "model.safetensors")
    for name in ("rank_threshold", "logit_scale_hardneg"):
        del weights[name]
    save_file(weights, own / "model.safetensors", {"format": "pt"})
    shutil.rmtree(own / "optimizer")
    assert load(own).width == 16


def test_the_digest_is_the_weights_and_not_the_optimizers(own):
    before = load(own).digest
    shutil.rmtree(own / "optimizer")
    assert load(own).digest == before
    weights = load_file(own / "model.safetensors")
    weights["logit_bias"] += 1e-3
    save_file(weights, own / "model.safetensors", {"format": "pt"})
    assert load(own).digest != before


def test_a_missing_tokenizer_is_said(own):
    for file in own.glob("token*"):
        file.unlink()
    with pytest.raises(ValueError, match="no tokenizer there"):
        load(own)


def test_too_many_patches_are_refused(checkpoint):
    with pytest.raises(ValueError, match="1 to 16384"):
        load(checkpoint, patches=1_000_000)


WIDTH_OF_WORDS = '{"model_type": "fgclip2", "text_config": {"hidden_size": "wide"}}'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", WIDTH_OF_WORDS),
        ("trainer.json", "{"),
        ("trainer.json", "[]"),
        ("trainer.json", '{"settings": {}}'),
        ("trainer.json", '{"settings": {"data": {"patches": "many"}}}'),
    ],
)
def test_a_damaged_description_is_named(name, text, own):
    (own / name).write_text(text)
    with pytest.raises(ValueError, match=rf"/{name}: "):
        load(own)
