import imagehash
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from operators.phash import Phash, hash_pictures


def picture(seed, size=(97, 61), cells=9):
    """Smooth random blobs: like photographs, most of the energy is in the low frequencies."""
    small = np.random.default_rng(seed).integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def bits_apart(a, b):
    return int(a ^ b).bit_count()


@pytest.mark.parametrize("size", [(97, 61), (1, 1), (3, 400), (32, 32)])
def test_it_is_imagehash_read_as_a_number(size):
    pictures = [picture(seed, size) for seed in range(20)]
    assert [f"{value:016x}" for value in hash_pictures(pictures).tolist()] == [str(imagehash.phash(p)) for p in pictures]


def test_a_resized_recompressed_picture_stays_near_and_another_does_not(tmp_path):
    original, other = picture(1, (640, 480)), picture(2, (640, 480))
    original.resize((200, 150)).save(tmp_path / "copy.jpg", quality=40)
    a, b, c = hash_pictures([original, Image.open(tmp_path / "copy.jpg"), other])
    assert bits_apart(a, b) <= 3
    assert bits_apart(a, c) > 12


def test_flat_pictures_hash_alike_whatever_their_tone_and_size():
    flat = [Image.new("RGB", size, tone) for size, tone in [((8, 8), "white"), ((99, 7), "grey"), ((500, 300), "navy")]]
    assert len(set(hash_pictures(flat).tolist())) == 1


def test_the_hash_does_not_depend_on_the_batch():
    pictures = [picture(seed) for seed in range(7)]
    alone = [hash_pictures([p])[0] for p in pictures]
    assert hash_pictures(pictures).tolist() == alone


def test_one_hash_per_sample():
    outcome = Phash()(pa.table({"uid": ["a", "b"]}), [picture(0), picture(1)])
    assert outcome.kept.schema == pa.schema({"uid": pa.string(), "phash": pa.uint64()})
    assert outcome.kept["uid"].to_pylist() == ["a", "b"]
