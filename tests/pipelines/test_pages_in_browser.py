"""The pages as people use them: a real Chromium, the real commands, a mouse and a keyboard, with axe-core looking on."""

import json
import socket

import pytest
from browser import PATIENCE, Served, browser, chromium
from scenes_run import make_comparison, make_run, write_recipe

from pipelines.report import write_report
from pipelines.review.book import Book

if chromium() is None:
    pytest.skip("no Chromium is installed: apt install chromium, or name one in FINELOOM_CHROMIUM", allow_module_level=True)
pytest.importorskip("playwright", reason="playwright is not installed")

from axe_playwright_python.sync_playwright import Axe


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    recipe = write_recipe(folder, 6, (320, 240), shard_size=3)
    chain = make_run(folder, recipe)
    make_run(folder, recipe, root="second", other_words=True)
    make_comparison(folder, recipe, folder / "compared.html")
    write_report(chain, [], []).rename(folder / "report.html")
    return folder


@pytest.fixture(scope="module")
def chrome(made):
    """After the run: Playwright's own event loop is running from here on."""
    with browser() as opened:
        yield opened


@pytest.fixture
def page(chrome):
    """A page that fails the test for any script error or anything that the content policy stopped."""
    context = chrome.new_context(locale="en-GB", viewport={"width": 1200, "height": 900})
    context.set_default_timeout(PATIENCE * 1000)
    opened, wrong = context.new_page(), []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: wrong.append(message.text) if "Content Security Policy" in message.text else None)
    yield opened
    context.close()
    assert not wrong


@pytest.fixture(scope="module")
def view(made):
    first, second = (str(made / root / "scenes") for root in ("runs", "second"))
    served = Served("view", first, "--against", second, "--recipe", str(made / "scenes_recipe.yaml"), "--port", "0")
    yield served.url
    served.end()


def no_barriers(page):
    """No finding of axe-core that it calls serious or critical."""
    found = Axe().run(page).response["violations"]
    told = [
        f"{page.url}: {f['id']} ({f['impact']}): {f['help']}: " + "; ".join(node["html"][:200] for node in f["nodes"][:3])
        for f in found
        if f["impact"] in ("serious", "critical")
    ]
    assert not told, "\n".join(told)


def cards(page):
    return page.locator("article.sample").count()


def test_gallery_filter_search_sample_and_the_switch_of_language(page, view):
    page.goto(view)
    page.click("section.card a")
    page.wait_for_url("**/scenes/")
    assert cards(page) == 6 and page.locator("svg.photo rect.box").count() > 6
    assert page.title() == "scenes · samples", "no stranger's script ran"
    no_barriers(page)
    page.keyboard.press("/")
    page.keyboard.type("dogs")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?q=dogs**")
    assert cards(page) == 1 and "<script>" in page.locator("article.sample").inner_text()
    page.goto(view + "scenes/")
    page.fill("input[name=where]", "len(regions) > 3")
    page.click("form.ask button")
    page.wait_for_url("**where=**")
    few = cards(page)
    assert 0 < few < 6
    page.locator("article.sample a.figure").first.click()
    page.wait_for_url("**/sample/**")
    assert "went through all stages" in page.inner_text("main")
    assert page.locator(".negatives mark").count() >= 10, "the changed words of the negatives are marked"
    no_barriers(page)
    page.click("a.switch")
    page.wait_for_url("**/sample/**")
    assert page.get_attribute("html", "lang") == "zh-Hans" and "通过了所有阶段" in page.inner_text("main")
    page.goto(view + "scenes/rejects")
    assert "被拒绝的内容" in page.inner_text("h1")
    no_barriers(page)


def test_two_runs_are_compared_sample_by_sample_with_their_differences_marked(page, view):
    page.goto(view)
    no_barriers(page)
    page.click("form.ask button")
    page.wait_for_url("**/compare/scenes/scenes-second")
    page.locator("[data-again]").wait_for(state="detached")
    assert "6 samples in both" in page.inner_text("main")
    changed = page.locator("article.pair").count()
    assert 0 < changed < 6, "only those that differ"
    assert set(page.locator(".sides ins").all_inner_texts()) == {"圈"} and page.locator(".sides del").count() >= 1
    no_barriers(page)
    page.click("text=translation_zh >> nth=0")
    page.wait_for_url("**which=translation_zh")
    assert page.locator("article.pair").count() == changed
    page.goto(view + "compare/scenes/scenes-second?which=all")
    assert page.locator("article.pair").count() == 6
    assert page.goto(view + "compare/scenes/scenes-second?which=nothing").status == 400


def test_pages_are_clear_in_the_dark_and_on_a_small_screen(chrome, view):
    context = chrome.new_context(locale="zh-CN", color_scheme="dark", viewport={"width": 360, "height": 740})
    context.set_default_timeout(PATIENCE * 1000)
    page = context.new_page()
    for path in ("scenes/", "scenes/rejects", "scenes/nothing"):
        page.goto(view + path)
        assert page.get_attribute("html", "lang") == "zh-Hans"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        no_barriers(page)
    context.close()


@pytest.mark.parametrize("name", ["report", "compared"])
@pytest.mark.parametrize("scheme, width", [("light", 1200), ("dark", 360)])
def test_pages_that_are_files_ask_nobody_and_have_no_barriers(chrome, made, name, scheme, width):
    context = chrome.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    context.set_default_timeout(PATIENCE * 1000)
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
    page.goto((made / f"{name}.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.title() != "taken", "no stranger's script ran"
    no_barriers(page)
    if name == "compared":
        page.check("#zh")
        assert "came out the same" not in page.inner_text("main")
        no_barriers(page)
    context.close()
    assert asked == []


def serve(made, port, *more):
    recipe = str(made / "scenes_recipe.yaml")
    return Served("review", "serve", recipe, "--root", str(made / "runs"), "--port", str(port), "--stage", "translate", *more)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_review_by_keyboard_by_two_people_with_a_restart_in_the_middle(chrome, page, made):
    port = free_port()
    served = serve(made, port, "--reviewer", "Li", "--reviewer", "王")
    try:
        page.goto(served.link_of("Li"))
        page.wait_for_url("**/item/**")  # while the run is still being looked through, the page asks again by itself
        first = page.url
        assert page.title().startswith("Item")
        no_barriers(page)
        other = chrome.new_context(locale="zh-CN")
        other.set_default_timeout(PATIENCE * 1000)
        wang = other.new_page()
        wang.goto(served.link_of("王"))
        assert wang.url != first and "这段译文正确吗" in wang.inner_text("h1")
        no_barriers(wang)

        page.keyboard.press("c")
        page.keyboard.press("Control+a")
        page.keyboard.insert_text("图中有两个红色的圆环。")
        assert page.locator("#change ins").count() > 0
        page.keyboard.press("Control+Enter")
        page.wait_for_url(lambda url: url != first)
        second = page.url
        page.keyboard.press("r")
        page.keyboard.press("3")
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: url not in (first, second))
        third = page.url

        page.keyboard.press("c")
        page.keyboard.press("End")
        page.keyboard.insert_text("补上的一句。")
        served.end(kill=True)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("[role=alert]")
        assert "nothing was stored" in page.inner_text("[role=alert]")
        served = serve(made, port)
        page.keyboard.press("Control+Enter")
        page.wait_for_url(lambda url: url not in (first, second, third))

        page.goto(served.url + "mine")
        assert page.locator("tbody tr").count() == 3 and "补上的一句。" in page.inner_text("tbody")
        assert "something is added" in page.inner_text("tbody")
        no_barriers(page)
        wang.goto(served.url)
        held = wang.url
        wang.keyboard.press("s")
        wang.wait_for_url(lambda url: url != held)
        page.goto(served.url + "progress")
        assert "Li" in page.inner_text("main") and "王" in page.inner_text("main")
        no_barriers(page)
        other.close()
    finally:
        served.end()
    book = Book(made / "runs" / "scenes" / "review.sqlite", "scenes")
    lines = list(book.lines())
    book.close()
    assert [(line["verdict"], line["reviewer"]) for line in lines] == [("correct", "Li"), ("reject", "Li"), ("correct", "Li")]
    assert lines[0]["corrected"] == "图中有两个红色的圆环。" and lines[1]["reason"] == "added"
    assert json.dumps(lines)
