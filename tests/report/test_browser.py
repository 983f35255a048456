"""The page in a real browser: nothing overflows or is fetched, and everything can be read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from lipcompile.report import Report
from tests.report import documents as made
from tests.report.test_formats import EVIL, EVIL_NAMES, REPORTS, evil

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTHS = (360, 1280)
A4 = 690  # CSS pixels between the margins
Scheme = Literal["light", "dark"]
LAYERS = tuple(f"/blocks/blocks.{i}/mlp/fc{1 + i % 2}/MatMul" for i in range(120))
PAGES = {**REPORTS, "names with markup": evil(), "120 layers": Report(made.everything(LAYERS))}

_LAYOUT = """() => {
  const found = [], wide = document.documentElement.clientWidth;
  const scroll = document.documentElement.scrollWidth;
  if (scroll > wide) found.push(`the page is ${scroll} wide in ${wide}`);
  const clips = e => ["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX);
  for (const e of document.body.querySelectorAll("*")) {
    const box = e.getBoundingClientRect();
    const drawing = e.tagName !== "svg" && e.closest("svg");
    if (!box.width || (drawing && e.tagName !== "text")) continue;
    const name = `${e.tagName} "${(e.textContent || "").trim().slice(0, 30)}"`;
    if (drawing) {
      const outer = drawing.getBoundingClientRect();
      const [right, below] = [box.right - outer.right, box.bottom - outer.bottom];
      const out = Math.max(right, below, outer.left - box.left, outer.top - box.top);
      if (out > 1) found.push(`${name} is cut by its drawing`);
      continue;
    }
    for (let p = e.parentElement; p && !clips(p); p = p.parentElement) {
      const outer = p.getBoundingClientRect();
      if (getComputedStyle(p).display === "inline") continue;
      if (box.right > outer.right + 1 || box.left < outer.left - 1) {
        found.push(`${name} is outside of ${p.tagName}`);
        break;
      }
    }
  }
  return found;
}"""
_CONTRAST = """() => {
  const numbers = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => {
    const [r, g, b] = numbers(c).slice(0, 3).map(v => v / 255).map(
      v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const opaque = c => { const n = numbers(c); return n.length < 4 || n[3] === 1; };
  const found = new Set();
  for (const e of document.body.querySelectorAll("*")) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getBoundingClientRect().width) continue;
    let p = e;
    while (p && !opaque(getComputedStyle(p).backgroundColor)) p = p.parentElement;
    const back = getComputedStyle(p || document.body).backgroundColor;
    const style = getComputedStyle(e);
    const front = e.tagName === "text" ? style.fill : style.color;
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.add(`${e.tagName} ${front} on ${back}: ${ratio.toFixed(2)}`);
  }
  return [...found];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Of the module, not of the session: while it runs, no other test can start an event loop.
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield found
        found.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every page as a file."""
    root = tmp_path_factory.mktemp("pages")
    for name, report in PAGES.items():
        (root / f"{name}.html").write_text(report.to_html(), encoding="utf-8")
    return root


def problems(
    browser: Browser, path: Path, width: int, scheme: Scheme, *, printed: bool = False
) -> list[str]:
    """What is wrong with a page at this width and in this colour scheme."""
    found: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    try:
        page.on("request", lambda request: found.append(f"request: {request.url}"))
        page.on("console", lambda message: found.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: found.append(f"error: {error}"))
        page.goto(path.as_uri())
        if printed:
            page.emulate_media(media="print")
        found += page.evaluate(_LAYOUT)
        found += page.evaluate(_CONTRAST)
    finally:
        page.close()
    found.remove(f"request: {path.as_uri()}")
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wrong_on_a_phone_and_on_a_desktop(
    name: str, width: int, scheme: Scheme, browser: Browser, folder: Path
) -> None:
    assert problems(browser, folder / f"{name}.html", width, scheme) == []


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_when_it_is_printed(name: str, browser: Browser, folder: Path) -> None:
    path = folder / f"{name}.html"
    assert problems(browser, path, A4, "dark", printed=True) == []


def test_a_pdf_can_be_printed_with_folded_tables(browser: Browser, folder: Path) -> None:
    page = browser.new_page()
    page.goto((folder / "120 layers.html").as_uri())
    last = page.locator("details tr:last-child").first
    assert not last.is_visible()
    page.emulate_media(media="print")
    assert last.is_visible()
    pdf = page.pdf(format="A4")
    page.close()
    assert pdf.startswith(b"%PDF-")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") > 5


PLANTED = {
    "an image": ('<img src="https://example.org/a.png">', "example.org"),
    "a script": ("<script>document.title = 1</script>", "console: "),
    "a wide box": ('<div style="width:2000px">wide</div>', "the page is"),
    "a clipped table": (
        '<div style="width:100px;overflow:visible"><div style="width:200px">x</div></div>',
        "is outside of DIV",
    ),
    "a cut label": (
        '<svg width="40" height="20"><text x="30" y="15">label</text></svg>',
        'text "label" is cut by its drawing',
    ),
    "pale text": ('<p style="color:#999;background:#fff">pale</p>', "P rgb(153, 153, 153)"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_caught(
    name: str, browser: Browser, folder: Path, tmp_path: Path
) -> None:
    fault, expected = PLANTED[name]
    text = (folder / "harden.html").read_text(encoding="utf-8")
    path = tmp_path / "planted.html"
    path.write_text(text.replace("</footer>", f"{fault}</footer>"), encoding="utf-8")
    assert expected in "\n".join(problems(browser, path, 1280, "light"))


def test_names_with_markup_are_shown_as_text(browser: Browser, folder: Path) -> None:
    page = browser.new_page()
    page.goto((folder / "names with markup.html").as_uri())
    shown = page.evaluate("document.body.textContent")
    count = page.evaluate("document.querySelectorAll('img, script, iframe, [onload]').length")
    page.close()
    assert count == 0
    for name in EVIL_NAMES[:-1]:
        assert name in shown
    assert f"Title {EVIL}" in shown


def test_the_schemes_differ_and_paper_is_white(browser: Browser, folder: Path) -> None:
    colours = set()
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto((folder / "everything.html").as_uri())
        ask = "getComputedStyle(document.body).backgroundColor"
        colours.add(page.evaluate(ask))
        page.emulate_media(media="print")
        assert page.evaluate(ask) == "rgb(255, 255, 255)"
        page.close()
    assert len(colours) == 2
