"""Every page: complete in itself, and of a structure that screen readers can follow."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from tests.reports.made_pages import Page

pytestmark = pytest.mark.slow  # pages of every kind
KINDS = ("evaluation", "change", "search", "study")


@pytest.fixture(params=KINDS)
def page(request: pytest.FixtureRequest, pages: dict[str, Path]) -> Page:
    return Page(pages[request.param])


def test_asks_for_nothing(page: Page) -> None:
    for tag, attributes in page.elements:
        for key in ("src", "href", "action", "data", "srcset", "poster"):
            value = attributes.get(key)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
        assert not [key for key in attributes if key.startswith("on")]
    assert set(re.findall(r"https?://[^\s\"'<]+", page.text)) <= {"http://www.w3.org/2000/svg"}
    assert "@import" not in page.text
    assert "url(" not in page.text
    policies = [one for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in str(policies[0]["content"])


def test_nothing_reported_becomes_markup(page: Page) -> None:
    assert not page.all("b")
    assert 'alert("x")</script>' not in page.text


def test_headings_and_landmarks_are_in_order(page: Page) -> None:
    assert page.headings.count(1) == 1
    assert page.headings[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(page.headings))
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("main")) == len(page.all("header")) == 1
    targets = [str(one["href"])[1:] for one in page.all("a")]
    ids = [str(attributes["id"]) for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(targets) <= set(ids)


@pytest.mark.parametrize("kind", ["evaluation", "change"])
def test_results_come_first_and_settings_last(pages: dict[str, Path], kind: str) -> None:
    text = pages[kind].read_text("utf-8")
    parts = re.findall('<h2 id="[^"]+">([^<]+)</h2>', text)
    changed, tested = (["What changed"], ["Statistics"]) if kind == "change" else ([], [])
    assert parts[: 2 + len(changed)] == ["Language pairs", *changed, "Families, scripts, languages"]
    assert parts[-2 - len(tested) :] == [*tested, "Settings", "Provenance"]
    lead = text.index('<p class="lead">')
    assert text.index("<h1>") < lead < text.index("<nav") < text.index("<table")
    markdown = pages[kind].with_suffix(".md").read_text("utf-8")
    assert re.findall("^## (.+)$", markdown, re.MULTILINE) == parts


def test_pictures_are_told_by_what_they_show(page: Page) -> None:
    for image in page.all("img"):
        assert re.search(r"\d", str(image["alt"])), image["alt"]


def test_figures_and_tables_can_be_read_without_seeing_them(page: Page) -> None:
    for image in page.all("img"):
        assert len(image["alt"] or "") > 20
        assert int(image["width"] or 0) > 100
    assert len(page.all("table")) == len(page.all("caption")) == len(page.tables) > 3
    for head in page.all("th"):
        assert head["scope"] in ("row", "col")
    frames = [one for one in page.all("div") if one.get("class") == "scroll"]
    assert len(frames) == len(page.all("table"))
    names = [one["aria-label"] for one in frames if one["tabindex"] == "0"]
    assert len(set(names)) == len(frames)


def test_what_is_folded_has_a_title_of_its_own(pages: dict[str, Path]) -> None:
    page = Page(pages["study"])
    titles = re.findall("<details><summary>([^<]+)</summary>", page.text)
    assert len(titles) == len(page.all("details")) == len(page.all("summary")) > 3
    assert len(set(titles)) == len(titles)
    before = page.text[: page.text.index("<details>")]
    assert all(name in before for name in ("Answer", "Limits", "All methods", "Setting"))
    markdown = pages["study"].with_suffix(".md").read_text("utf-8")
    for title in titles:
        assert f"<details>\n<summary>{title}</summary>\n\n" in markdown
    assert markdown.count("</details>") == len(titles)
    for text in (page.text, markdown):
        assert not re.search(r"\bnan\b|lowers by 0\.0000|None", re.sub('base64,[^"]+', "", text))


@pytest.mark.parametrize("kind", KINDS)
def test_the_markdown_holds_the_same(pages: dict[str, Path], kind: str) -> None:
    path = pages[kind].with_suffix(".md")
    text = path.read_text("utf-8")
    images = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert images
    for name in images:
        assert (path.parent / name).read_bytes().startswith(b"\x89PNG")
    lines = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines()}
    for caption, rows in Page(pages[kind]).tables.items():
        if " minus " not in caption:  # a picture in Markdown
            for row in rows[1:]:
                cells = (re.sub("<(?=[a-z/])", "&lt;", cell).replace("|", "&#124;") for cell in row)
                assert tuple(cells) in lines, caption
    assert "<b>" not in text
