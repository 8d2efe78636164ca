"""The documentation builds, asks nobody for anything, and says nothing of commands, options, targets or files that are not there."""

import importlib.util
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer.main
import yaml

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "demo" / "README.md"])
BLOCK = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```", re.M | re.S)
PROGRAM = re.compile(r"(?:\.venv/bin/)?fineloom$")


def code(page):
    """Lines and inline pieces of a page that may be commands."""
    text = page.read_text()
    for language, _, block in BLOCK.findall(text):
        if language in ("", "bash", "sh", "console"):
            yield from re.sub(r"\\\n\s*", " ", block).splitlines()
    yield from re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))


def words_of(line):
    try:
        return shlex.split(line.strip().removeprefix("$ "), comments=True)
    except ValueError:
        return []


def calls(page, program):
    for line in code(page):
        words = words_of(line)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words[:1] in (["torchrun"], ["python"], [".venv/bin/python"]) and "-m" in words:
            words = [f"-m {words[words.index('-m') + 1]}", *words[words.index("-m") + 2 :]]
        if words and program(words[0]):
            yield line, words[1:]


def trouble(command, words):
    """The first word of a call that its command does not know."""
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if re.fullmatch(r"[A-Z]+|…", words[0]):  # COMMAND, in prose
            return None
        if words[0] not in command.commands:
            return words[0]
        command = command.commands[words[0]]
        words = words[1:]
    known = {option for p in command.params for option in (*p.opts, *getattr(p, "secondary_opts", ()))} | {"--help"}
    for word in words:
        if word in ("|", ">", "&&", ";"):
            break
        if word.startswith("--") and word.partition("=")[0] not in known:
            return word
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page):
    from fgclip2_train.cli import app as trainer
    from pipelines.cli import app

    wrong = []
    for command, program in (
        (typer.main.get_command(app), lambda word: bool(PROGRAM.match(word))),
        (typer.main.get_command(trainer), lambda word: word == "-m fgclip2_train"),
    ):
        wrong += [f"{line}: {word}" for line, words in calls(page, program) if (word := trouble(command, words)) is not None]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_and_modules_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M)) | {
        f"submit-{f.stem}" for f in ROOT.glob("manifests/recipes/*.yaml")
    }
    assert not {
        words[0]
        for _, words in calls(page, lambda word: word == "make")
        if words and re.fullmatch(r"[a-z][a-z_-]*", words[0]) and words[0] not in targets | {"submit-RECIPE"}
    }
    for _, words in calls(page, lambda word: word.startswith("-m ")):
        del words
    for line in code(page):
        found = re.search(r"python -m ([a-z_][\w.]*)", line)
        if found and found.group(1).split(".")[0] in ("demo", "benchmarks", "fgclip2_train", "pipelines"):
            assert importlib.util.find_spec(found.group(1)) is not None, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for text, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text())):
        if target.startswith("http") or target.startswith("reference/") or target == "examples.md":
            continue  # made pages are checked by the build
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page.name}: [{text}]({target})"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", file.read_text()), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name}: {target}"


def test_files_that_are_named_are_there():
    wrong = []
    for page in PAGES:
        for name in re.findall(
            r"`((?:operators|pipelines|prompts|manifests|tests|docs|demo|benchmarks|fgclip2_train)/[\w./-]+)`", page.read_text()
        ):
            if not name.endswith("/") and not (ROOT / name).exists() and name not in {"operators/shouting.py", "docs/examples"}:
                wrong.append(f"{page.name}: {name}")
    assert not wrong


class Asked(HTMLParser):
    """Addresses that a browser fetches by itself."""

    def __init__(self):
        super().__init__()
        self.fetched = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio") and given.get("src"):
            self.fetched.append(given["src"])
        if tag == "link" and given.get("href") and given.get("rel") not in ("canonical", "next", "prev"):
            self.fetched.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    mkdocs = Path(sys.executable).with_name("mkdocs")
    done = subprocess.run(
        [mkdocs, "build", "--strict", "--quiet", "--config-file", "manifests/mkdocs.yml", "--site-dir", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_site_builds_strictly_and_fetches_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        asked = Asked()
        asked.feed(page.read_text())
        assert [address for address in asked.fetched if re.match(r"(https?:)?//", address)] == [], page
    styles = "".join(file.read_text() for file in site.rglob("*.css"))
    assert not re.search(r"(@import|url\()\s*[\"']?https?:", styles)


def test_the_site_has_every_operator_prompt_recipe_and_command(site):
    from operators import OPERATORS
    from pipelines.config import recipe_names

    reference = site / "reference"
    operators = (reference / "operators.html").read_text()
    assert all(f'id="{name}"' in operators for name in OPERATORS)
    recipes = (reference / "recipes.html").read_text()
    assert all(f'id="{name}"' in recipes for name in recipe_names())
    assert 'id="fineloom-doctor"' in (reference / "commands.html").read_text()
    assert 'id="long_caption_en"' in (reference / "prompts.html").read_text()


def test_every_page_is_in_the_navigation():
    listed = (ROOT / "manifests" / "mkdocs.yml").read_text()
    assert all(page.name in listed for page in ROOT.glob("docs/*.md"))


def blocks(page, language):
    return [(title, text) for found, title, text in BLOCK.findall((ROOT / "docs" / page).read_text()) if found == language]


def test_the_operator_of_the_page_and_its_test_run(tmp_path, monkeypatch):
    code = dict(blocks("extending.md", "python"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "shouting.py").write_text(code["operators/shouting.py"])
    test = code["tests/operators/test_shouting.py"].replace("operators.shouting", "shouting")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "checked.py").write_text(test)
    runpy.run_path(str(tmp_path / "checked.py"))["test_capitals_are_refused_with_their_share"]()
    assert "shouting" in code["operators/__init__.py"]


@pytest.mark.parametrize("page", ["extending.md", "own-data.md"])
def test_the_sources_and_recipes_of_the_pages_are_valid(page, tmp_path, monkeypatch):
    from pipelines.config import load_recipe
    from pipelines.sources import load_source

    monkeypatch.setenv("SHOP", str(tmp_path))
    monkeypatch.setenv("MY_LINKS", str(tmp_path))
    seen = set()
    for title, text in blocks(page, "yaml"):
        first = text.splitlines()[0].removeprefix("# ") if text.startswith("# ") else title
        file = tmp_path / Path(first).name
        file.write_text(text)
        if "stages" in yaml.safe_load(text):
            assert load_recipe(file).stages
            seen.add("recipe")
        else:
            assert load_source(str(file), []).format
            seen.add("source")
    assert seen == {"recipe", "source"}


def test_the_filters_of_the_page_make_a_recipe(tmp_path, monkeypatch):
    from operators.decontaminate import caption_key
    from pipelines.config import load_recipe
    from tests.kit.tiny_onnx import make_tiny_onnx

    monkeypatch.chdir(tmp_path)
    for folder in ("lists", "evaluation", "models"):
        (tmp_path / folder).mkdir()
    (tmp_path / "lists" / "words.txt").write_text("spam\n")
    for name in ("coco_cn", "lit_cn"):
        line = json.dumps({"set": name, "caption": caption_key("a caption of that set")})
        (tmp_path / "evaluation" / f"{name}.jsonl").write_text(line + "\n")
    make_tiny_onnx(tmp_path / "models" / "open_nsfw.onnx")
    (_, stages), (_, classifier), (_, meaning), (_, faces) = blocks("filters.md", "yaml")
    recipe = {"recipe": "filtered", "sources": ["pictures"], **yaml.safe_load(stages)}
    pack = recipe["stages"].pop("pack")
    hidden = yaml.safe_load(faces)["stages"]
    same = {
        f"by_{name}" if name == "measure" else name: stage for name, stage in yaml.safe_load(meaning).items() if name != "dedup"
    }
    recipe["stages"] |= {**yaml.safe_load(classifier), **same, "faces": hidden["faces"], "pack": pack | hidden["pack"]}
    (tmp_path / "filtered.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    loaded = load_recipe(tmp_path / "filtered.yaml")
    listed = {
        word for line in (ROOT / "docs" / "filters.md").read_text().splitlines() for word in re.findall(r"\| `(\w+)` \|", line)
    }
    assert {"overlay", "pii", "decontaminate", "onnx_score"} <= {
        name for stage in loaded.stages for name in stage.operators
    } & listed | {"onnx_score"}


# --- the scripts of docs/examples


def example(name, *words, capsys):
    runpy.run_path(str(ROOT / "docs" / "examples" / f"{name}.py"))["main"](*map(str, words))
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    kit = runpy.run_path(str(ROOT / "tests" / "fgclip2_train" / "use_kit.py"))
    at = tmp_path_factory.mktemp("examples")
    kit["write_pictures"](at / "pictures", 3)
    kit["make_checkpoint"](at / "trained")
    return at


def test_search_a_folder(checkpoint, capsys):
    told = example(
        "search_a_folder", checkpoint / "trained", checkpoint / "pictures", "a red circle", "红色圆形", capsys=capsys
    )
    assert "3 pictures, 3 of them encoded now" in told and "0001.png" in told and "红色圆形" in told


def test_draw_a_dense_map(checkpoint, capsys):
    out = checkpoint / "maps.png"
    told = example(
        "draw_a_dense_map", checkpoint / "trained", checkpoint / "pictures" / "0000.png", out, "red circle", capsys=capsys
    )
    assert out.stat().st_size > 1000 and "for each of 1 phrases" in told


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    at = tmp_path_factory.mktemp("scenes")
    kit = runpy.run_path(str(ROOT / "tests" / "fgclip2_train" / "make_shards.py"))
    kit["write_scenes"](at / "shards", 2, 4)
    return at


def test_look_at_a_run(scenes, capsys):
    told = example("look_at_a_run", scenes / "shards", scenes / "seen.png", capsys=capsys)
    assert re.search(r"^ +8  samples$", told, re.M) and "hard negatives" in told and "  not: " in told
    assert (scenes / "seen.png").stat().st_size > 1000


def test_train_on_finehard(scenes, checkpoint, capfd):
    """One step, from shards that were taken in from FineHARD's own layout."""
    from pipelines.exports import About, ExportSettings, export

    out = scenes / "published"
    export(sorted((scenes / "shards").glob("*.tar")), "finehard", out, ExportSettings(), About("FineHARD", "", {}, "1"))
    start = next((checkpoint / "trained" / "checkpoints").iterdir())
    settings = [
        "--preset",
        "tiny",
        f"model.start={start}",
        "steps=1",
        "batch=2",
        "data.workers=0",
    ]
    example("train_on_finehard", out / "jsonfiles", out / "images", scenes / "trained", *settings, capsys=capfd)
    assert list((scenes / "trained" / "stage2" / "checkpoints").rglob("model.safetensors"))
