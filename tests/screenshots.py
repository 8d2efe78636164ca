"""Renew the pictures of the pages in docs/images: `make screenshots`. Wants Chromium.

A run over rendered scenes is made in a temporary folder, with a canned model whose translations are wrong here and there; the real
commands serve it and a real browser looks.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "kit")]
from browser import Served, browser, chromium  # noqa: E402
from scenes_run import make_run, write_recipe  # noqa: E402

OUT = ROOT / "docs" / "images"


def main() -> None:
    if chromium() is None:
        sys.exit("no Chromium is installed: apt install chromium, or name one in FINELOOM_CHROMIUM")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = write_recipe(folder, 12, (480, 360), shard_size=6, ugly=False)
        make_run(folder, recipe)
        look(folder, recipe)


def look(folder: Path, recipe: Path) -> None:
    view = Served("view", str(folder / "runs" / "scenes"), "--recipe", str(recipe), "--port", "0")
    options = ["--root", str(folder / "runs"), "--port", "0", "--reviewer", "Li", "--reviewer", "Wang"]
    review = Served("review", "serve", str(recipe), *options)
    try:
        with browser() as chrome:
            page = chrome.new_context(locale="en-GB", viewport={"width": 1280, "height": 860}).new_page()
            page.set_default_timeout(180_000)
            page.goto(view.url)
            page.wait_for_load_state("networkidle")
            page.screenshot(path=OUT / "view-gallery.png")
            page.locator("article.sample a.figure").nth(1).click()
            page.wait_for_url("**/sample/**")
            page.wait_for_load_state("networkidle")
            page.screenshot(path=OUT / "view-sample.png")
            page.goto(review.link_of("Li"))
            page.wait_for_url("**/item/**")
            page.wait_for_load_state("networkidle")
            page.screenshot(path=OUT / "review.png")
            context = chrome.new_context(locale="zh-CN", color_scheme="dark", viewport={"width": 1280, "height": 860})
            page = context.new_page()
            page.set_default_timeout(180_000)
            page.goto(review.link_of("Wang"))
            page.wait_for_load_state("networkidle")
            page.keyboard.press("c")
            page.keyboard.press("Control+End")
            page.keyboard.insert_text("（改过的一句）")
            page.screenshot(path=OUT / "review-zh.png")
    finally:
        view.end()
        review.end()
    for file in sorted(OUT.glob("*.png")):
        print(f"{file.relative_to(ROOT)}  {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
