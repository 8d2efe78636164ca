"""What becomes of pictures that strangers made: decoded the same way everywhere, or refused with a reason."""

import hashlib
import io
import random
import re
import struct
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from picture_server import picture
from PIL import Image

from fgclip2_train.data import images
from operators.pictures import BadPicture, decode
from pipelines.download import FetchError, verify
from pipelines.durable import Damaged
from pipelines.shard_format import Report, _check_picture
from pipelines.worker import DECODE_PIXELS, PictureReader, _decode_all, _decoded_at_once

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
LIMIT = 4_000_000


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def refusal(data, limit=LIMIT):
    with pytest.raises(FetchError) as caught:
        verify(data, limit)
    with pytest.raises(BadPicture) as again:
        decode(data, limit)
    assert caught.value.reason == again.value.reason
    return caught.value.reason


def png_claiming(width, height, depth=8, colour=2):
    """A PNG whose header promises this size, with next to nothing behind it."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_raster_format_is_known_by_its_bytes(kind):
    found = verify(picture(50, 40, kind), LIMIT)
    assert (found.format, found.width, found.height) == (kind, 50, 40)
    assert decode(picture(50, 40, kind)).size == (50, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_and_pixels_are_those_of_the_upright_picture(orientation):
    upright = Image.new("RGB", (60, 40), "white")
    upright.paste("red", (0, 0, 30, 20))  # top left
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions that the viewer will turn back
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG", "WEBP"):
        data = saved(stored, kind, exif=exif)
        found = verify(data, LIMIT)
        assert (found.width, found.height) == (60, 40), kind
        seen = decode(data)
        assert seen.size == (60, 40)
        red, white = seen.getpixel((8, 8)), seen.getpixel((52, 32))
        assert red[0] > 200 and red[1] < 60 and min(white) > 200, kind


def test_a_broken_exif_block_is_no_orientation():
    data = picture(50, 40)
    block = b"Exif\0\0MM\0*\xff\xff\xff\xff garbage"
    broken = data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]
    assert (verify(broken, LIMIT).width, decode(broken).size) == (50, (50, 40))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("L", "PNG"),
        ("1", "PNG"),
        ("P", "GIF"),
        ("LA", "PNG"),
        ("RGBA", "WEBP"),
        ("CMYK", "JPEG"),
        ("I;16", "PNG"),
        ("F", "TIFF"),
    ],
)
def test_every_pixel_mode_becomes_8_bit_rgb(mode, kind):
    image = Image.merge("CMYK", [Image.linear_gradient("L")] * 4) if mode == "CMYK" else None
    if mode == "I;16":
        image = Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(1, 256).repeat(16, 0))
    image = image or Image.linear_gradient("L").convert(mode)
    data = saved(image, kind)
    assert verify(data, LIMIT).format == kind
    seen = decode(data)
    assert seen.mode == "RGB"
    values = np.asarray(seen)
    assert values.max() > 200 and values.min() < 60  # neither black nor white throughout


def test_16_bits_are_scaled_not_clipped():
    image = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    assert abs(decode(saved(image, "PNG")).getpixel((0, 0))[0] - 128) <= 1


def test_transparency_is_seen_on_white():
    see_through = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert decode(saved(see_through, "PNG")).getpixel((4, 4)) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 3)
    palette.putpalette([0, 0, 0, 0, 255, 0, 0, 0, 255, 255, 0, 0])
    assert decode(saved(palette, "PNG", transparency=3)).getpixel((4, 4)) == (255, 255, 255)


def exif_jpeg(*fields):
    """A JPEG that lies on its side, with more fields in its EXIF block: tag, type, count and four bytes each."""
    rows = [struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0), *(struct.pack("<HHI4s", *field) for field in fields)]
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(rows)) + b"".join(rows) + bytes(4)
    data = picture(50, 40)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]


def lies(kind, **options):
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.linear_gradient("L").resize((50, 40)).convert("RGB"), kind, exif=exif, **options)


def floats(*odd):
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    values[0, : len(odd)] = odd
    return saved(Image.fromarray(values), "TIFF")


RAMP = Image.linear_gradient("L").resize((64, 48))
ODD = {
    "TIFF on its side": lies("TIFF"),
    "TIFF on its side, packed": lies("TIFF", compression="tiff_lzw"),
    "AVIF on its side": lies("AVIF"),
    "EXIF with a text for a number": exif_jpeg((0x0100, 2, 4, b"abc\0")),
    "EXIF with bytes for a fraction": exif_jpeg((0x011A, 7, 4, b"abcd")),
    "EXIF that leads nowhere": exif_jpeg((0x8769, 4, 1, b"\xff\xff\xff\x7f")),
    "WEBP whose EXIF is none": re.sub(rb"(?<=MM)\0\*", b"\0\x06", lies("WEBP"), count=1),
    "floats, one of them no number": floats(float("nan"), float("inf")),
    "YCCK and CMYK": saved(Image.merge("CMYK", [RAMP, RAMP.rotate(180), RAMP, RAMP]), "JPEG"),
    "LAB": saved(RAMP.convert("RGB").convert("LAB"), "TIFF"),
    "grey of 16 bits with a transparent value": saved(Image.fromarray(np.full((8, 8), 900, np.uint16)), "PNG"),
    "one bit": saved(RAMP.convert("1"), "TIFF", compression="group4"),
    "several pages": saved(RAMP, "TIFF", save_all=True, append_images=[RAMP.rotate(180)]),
    "several pictures": saved(RAMP, "MPO", save_all=True, append_images=[RAMP.rotate(180)]),
    "rubbish behind it": saved(RAMP, "JPEG") + b"rubbish" * 99 + saved(RAMP.rotate(180), "JPEG"),
}


@pytest.mark.parametrize("data", ODD.values(), ids=ODD.keys())
def test_what_the_download_takes_the_stages_the_trainer_and_the_check_of_shards_see_alike(data):
    found = verify(data, LIMIT)
    seen, trained = (np.asarray(picture, np.int16) for picture in (decode(data), images.decode(data)))
    assert seen.shape == (found.height, found.width, 3) and np.array_equal(seen, trained)
    told = Report("0.tar")
    record = SimpleNamespace(sha256=found.sha256, image_format=found.format, width=found.width, height=found.height)
    _check_picture("uid", data, record, told)
    assert told.ok, told.errors


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PPM", "JPEG2000", "EPS"])
def test_what_the_download_refuses_the_trainer_refuses(kind):
    data = saved(RAMP.convert("RGB"), kind)
    assert refusal(data) == "not_an_image"
    with pytest.raises(images.BAD_PICTURE):
        images.decode(data)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_the_picture(kind):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "green")]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    red = decode(data).getpixel((10, 10))
    assert verify(data, LIMIT).width == 20 and red[0] > 200 and red[2] < 60


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_picture_that_ends_early_is_refused_wherever_it_ends(kind):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (80, 80, 3), np.uint8))
    data = saved(image, kind)
    for share in (0.3, 0.6, 0.9):
        assert refusal(data[: int(len(data) * share)]) in ("truncated", "undecodable", "not_an_image")


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"progressive": False}, {"subsampling": 0}, {"restart_marker_rows": 1}]
)
def test_the_quick_check_of_a_jpeg_sees_a_cut_that_the_slow_one_sees(options):
    rng = np.random.default_rng(1)
    data = saved(Image.fromarray(rng.integers(0, 255, (200, 300, 3), np.uint8)), "JPEG", **options)
    verify(data, LIMIT)
    for cut in (1000, 400, 100, 20):
        assert refusal(data[:-cut]) == "truncated"


@pytest.mark.parametrize(
    ("mode", "options"),
    [("RGB", {}), ("RGB", {"progressive": True}), ("L", {"restart_marker_blocks": 3}), ("CMYK", {"progressive": True})],
)
def test_the_quick_check_of_a_jpeg_says_what_decoding_it_says_whatever_happened_to_its_bytes(mode, options):
    rng = random.Random(7)
    noise = np.random.default_rng(7).integers(0, 255, (70, 90, 4), np.uint8)[:, :, : len(mode)].squeeze()
    whole = saved(Image.fromarray(noise, mode), "JPEG", **options)
    markers = [at for at in range(len(whole) - 1) if whole[at] == 0xFF and whole[at + 1] not in (0, 0xFF)]
    told = Counter()
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            at = min(
                rng.choice(markers) + rng.randint(0, 20) if rng.random() < 0.6 else rng.randrange(len(data)), len(data) - 1
            )
            piece = rng.choice(
                [b"\xff", b"\xff\xd9", b"\xff\xda", b"\xff\x01", b"\xff\xfe\x00\x04no", rng.randbytes(3), data[at : at + 90]]
            )
            data[at : at + rng.choice([0, 1, 2, 500])] = piece
        try:
            decode(bytes(data), LIMIT)
        except BadPicture:
            told[refusal(bytes(data))] += 1
        else:
            told[verify(bytes(data), LIMIT).format] += 1
    assert told["JPEG"] > 50 and told["undecodable"] > 50, told


def test_bombs_are_refused_by_their_header():
    assert refusal(png_claiming(100_000, 100_000)) == "too_many_pixels"
    assert refusal(png_claiming(3000, 3000)) == "too_many_pixels"
    assert refusal(png_claiming(2**31 - 1, 2**31 - 1, 16, 6)) == "too_many_pixels"
    gif = bytearray(picture(10, 10, "GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    assert refusal(bytes(gif)) == "too_many_pixels"
    bmp = bytearray(picture(10, 10, "BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    assert refusal(bytes(bmp)) == "too_many_pixels"


def test_a_text_chunk_that_unpacks_to_gigabytes_is_refused():
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    data = picture(10, 10, "PNG")
    bomb = chunk(b"zTXt", b"note\0\0" + zlib.compress(b"\0" * 80_000_000, 9))
    at = data.index(b"IDAT") - 4
    assert refusal(data[:at] + bomb + data[at:]) in ("undecodable", "truncated")


def test_an_empty_side_and_half_a_header():
    assert refusal(png_claiming(0, 10)) in ("undecodable", "not_an_image")
    assert refusal(picture()[:3]) in ("not_an_image", "undecodable", "truncated")
    assert refusal(b"") == "empty"


def test_a_polyglot_is_what_its_first_bytes_say():
    assert verify(picture() + b"<html><script>alert(1)</script>", LIMIT).format == "JPEG"
    assert refusal(b"<html>" + picture()) == "not_an_image"


def test_formats_that_run_or_refer_to_other_things_are_no_pictures():
    assert refusal(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n") == "not_an_image"
    assert refusal(b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>') == "svg"
    assert refusal(b"%PDF-1.7\n") == "not_an_image"


def test_noise_never_gets_past_with_another_error():
    """Pictures with bytes turned over: accepted or refused, never anything else."""
    rng = np.random.default_rng(2)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        data = picture(40, 30, kind, **({"exif": exif.tobytes()} if kind in ("PNG", "WEBP", "AVIF") else {}))
        for _ in range(150):
            noisy = np.frombuffer(data, np.uint8).copy()
            places = rng.integers(0, len(noisy), rng.integers(1, 12))
            noisy[places] = rng.integers(0, 255, len(places), np.uint8)
            try:
                found = verify(noisy.tobytes(), LIMIT)
            except FetchError:
                continue
            # What was stored as good is good for every later stage, at the size that was recorded.
            assert decode(noisy.tobytes(), LIMIT).size == (found.width, found.height), kind


def test_an_avif_whose_payload_is_broken_is_refused():
    """Its reader raises RuntimeError, which once failed the whole shard, and again at every new try."""
    data = bytearray(picture(64, 64, "AVIF"))
    at = data.index(b"mdat") + 8
    data[at:] = bytes(len(data) - at)
    assert refusal(bytes(data)) == "undecodable"


def test_a_png_with_a_broken_stream_is_refused_when_it_comes():
    """Looking for EXIF loads its pixels, and a second load of the same picture says nothing of what was broken."""
    data = bytearray(picture(64, 64, "PNG"))
    at = data.index(b"IDAT") + 30
    data[at : at + 8] = b"\xff" * 8
    assert refusal(bytes(data)) in ("truncated", "undecodable")


def test_real_photographs(pytestconfig):
    folder = Path(__file__).parents[3] / "shared" / "data" / "photos"
    if not folder.is_dir():
        pytest.skip("no folder shared/data/photos beside the repository")
    for path in sorted(folder.glob("*.jpg"))[:20]:
        data = path.read_bytes()
        found = verify(data, 80_000_000)
        assert found.sha256 == hashlib.sha256(data).hexdigest()
        assert decode(data).size == (found.width, found.height)


SHORT_OF_MEMORY = """
import hashlib, io, resource
import pyarrow as pa
from PIL import Image
from pipelines.worker import _decode_all

def jpeg(side):
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "JPEG")
    return file.getvalue()

pictures = {"large": jpeg(9000), "small": jpeg(64)}
sums = [hashlib.sha256(data).hexdigest() for data in pictures.values()]
table = pa.table({"uid": list(pictures), "image_offset": [0, 0], "image_size": [1, 1], "sha256": sums})
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (150 << 20), now + (150 << 20)))
decoded, rejects = _decode_all(table, lambda sample: pictures[sample["uid"]])
print([picture and picture.size for picture in decoded], [(r.uid, r.reason) for r in rejects])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc, and a limit that is kept")
def test_a_picture_for_which_there_is_no_memory_costs_one_sample():
    told = subprocess.run([sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, timeout=120)
    assert told.stdout.strip() == "[None, (64, 64)] [('large', 'out_of_memory')]", told.stderr


def test_a_picture_that_was_changed_after_its_download_is_no_refusal(tmp_path):
    data = picture(20, 10)
    (tmp_path / "0.tar").write_bytes(bytes(512) + bytes(len(data)))
    sha256 = hashlib.sha256(data).hexdigest()
    table = pa.table({"uid": ["a"], "image_offset": [512], "image_size": [len(data)], "sha256": [sha256]})
    with PictureReader(tmp_path / "0.tar") as read, pytest.raises(Damaged, match=r"0\.tar: from byte 512 on: not the picture"):
        _decode_all(table, read)


def test_large_pictures_are_decoded_few_at_a_time():
    def sides(*pixels):
        return pa.table({"width": pa.array(pixels, pa.int32()), "height": pa.array([1] * len(pixels), pa.int32())})

    most = DECODE_PIXELS
    assert list(_decoded_at_once(sides(most, 1, most - 1, 2, most + 1, 1))) == [(0, 1), (1, 2), (3, 1), (4, 1), (5, 1)]
    assert list(_decoded_at_once(sides(*[1] * 300))) == [(0, 128), (128, 128), (256, 44)]
    assert list(_decoded_at_once(sides())) == [(0, 0)]


def png_with_profile(body):
    data = picture(20, 10, "PNG")
    at = data.index(b"IDAT") - 4
    chunk = b"iCCP" + b"icc\0\0" + body
    return data[:at] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[at:]


def jpeg_with_profile(*parts):
    data = picture(20, 10)
    bodies = [b"ICC_PROFILE\0" + bytes([number, count]) + body for number, count, body in parts]
    return data[:2] + b"".join(b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body for body in bodies) + data[2:]


NOISE = np.random.default_rng(0).bytes(65_000)


@pytest.mark.parametrize(
    "data",
    [
        png_with_profile(b"no zlib at all"),
        png_with_profile(zlib.compress(NOISE)),
        png_with_profile(zlib.compress(b"")),
        jpeg_with_profile((1, 1, NOISE[:3000])),
        jpeg_with_profile((1, 4, NOISE), (3, 4, NOISE)),
        jpeg_with_profile((0, 0, b""), (9, 2, NOISE), (9, 2, NOISE)),
        jpeg_with_profile(*((n, 255, NOISE) for n in range(1, 256))),
    ],
    ids=["no stream", "noise", "empty", "noise in APP2", "parts missing", "parts miscounted", "16 MB"],
)
def test_a_broken_colour_profile_changes_no_pixel(data):
    kind = verify(data, LIMIT).format
    assert np.array_equal(np.asarray(decode(data)), np.asarray(decode(picture(20, 10, kind))))


def test_a_colour_profile_that_unpacks_to_gigabytes_is_refused():
    assert refusal(png_with_profile(zlib.compress(b"\0" * 80_000_000, 9))) == "undecodable"
