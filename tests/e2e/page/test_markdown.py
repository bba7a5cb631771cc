"""How answers are drawn: blocks that only grow, code, formulas, tables."""

import pytest

from tests.e2e.fake_backend import LONG, MARKDOWN, fake_backend

STREAMED = {
    "all together": MARKDOWN,
    "paragraphs": "One.\n\nTwo *two*.\n\n\nThree\nwith two lines.\n\nFour.\n\nFive.\n",
    "a list that goes on after paragraphs": "- a\n\n  more\n\n- b\n\nText.\n\n- c\n- d\n\n\n1. e\n\n   f\n2. g\n",
    "a list of code": "1. Do:\n\n   ```sh\n   ls\n   cd ..\n   ```\n\n2. Then:\n\n   ```sh\n   rm x\n   ```\n\nDone.\n",
    "a list that turns loose": "- a\n- b\n- c\n\n- d\n",
    "tasks": "- [x] done\n- [ ] open\n\n* other\n",
    "headings": "# One\ntext\nTwo\n---\ntext\n## Three\n\n***\n\nFour\n====\n",
    "a table that grows": "Before\n\n| a | b |\n|--:|---|\n| 1 | 2 |\n| 3 | `4` |\n| 5 | $x$ |\n\nAfter\n",
    "quotes": "> a\n> b\n\n> c\n>\n> - d\n> - e\n\nf\n",
    "code": "Text\n\n```python\ndef f():\n    '''a\n    b'''\n```\n\n    indented\n\n~~~\nopen\n",
    "links at the end": "[a] or [b c].\n\nx\n\ny\n\nz [a]\n\n[a]: https://a.example\n[B C]: https://b.example 't'\n",
    "formulas": "Let $x^2$.\n\n$$\na\n- b\n$$\n\n\\(y\\) is \\[\\frac{1}{2}\\] costs $5, $6.\n\n```math\nz\n```\n",
    "HTML": "<div>\n\na\n\n</div>\n\n<!-- b\n\nc -->\n\nd\n\n<pre>\n\ne\n",
    "plain tags": "a<br>b H<sub>2</sub>O <kbd>Ctrl</kbd> <u>open\n\n<br>\n\n| a |\n|---|\n| 1<br>2 |\n",
    "environments": "So\n\\begin{align}\nx &= 1 \\\\ y &= 2\n\\end{align}\nand \\begin{equation*}a\\end{equation*}.\n",
    "footnotes": "A[^1] and [^b].\n\n- c[^B]\n\nd\n\ne\n\nf [^no]\n[^1]: One,\ntwo\n\n"
    "   more\n\n[^b]: `x` [^1]\n\ng[^b]\n\nh\n",
    "details": (
        "a\n<details>\n<summary>One *and* $x$</summary>\n\n- b\n\n```html\n</details>\n```\n\nc [l]\n\n"
        "<details open><summary>two</summary>d</details>\n\ne[^1]\n</details>\n\n"
        "f\n\n- <details>\n\n  g\n\n[l]: https://l.example\n[^1]: n\n"
    ),
    "details without an end": "<details>\n\na\n\n> b\n\nc < d\n",
    "returns": "a\r\n\r\n- b\r\n- c\r\n\r\nd\r\n\r\ne\r\n\r\nf\r\n",
}


@pytest.fixture
def chat(page):
    with fake_backend() as backend:
        page.goto(backend.url)
        page.wait_for_selector("#model option", state="attached")
        yield page


def drawn(chat, text):
    """Draw the text on the page as a finished answer."""
    chat.evaluate(
        """async (text) => {
            const { MarkdownView } = await import("/static/chat/markdown.js");
            const body = document.createElement("div");
            body.className = "body drawn";
            document.querySelector("#messages").replaceChildren(body);
            body.parentElement.classList.add("assistant");
            new MarkdownView(body).update(text);
        }""",
        text,
    )
    return chat.locator(".drawn")


@pytest.mark.parametrize("kind", STREAMED)
def test_what_streams_ends_as_what_is_drawn_at_once(chat, kind):
    ends = chat.evaluate(
        """async (text) => {
            const { MarkdownView } = await import("/static/chat/markdown.js");
            const whole = (step) => {
                const element = document.createElement("div");
                const view = new MarkdownView(element);
                for (let end = step; end < text.length; end += step) view.update(text.slice(0, end));
                view.update(text);
                return element.innerHTML;
            };
            return [1, 2, 7, text.length].map(whole);
        }""",
        STREAMED[kind],
    )
    assert len(set(ends)) == 1, ends


def test_only_what_changed_is_drawn_anew(chat):
    kept = chat.evaluate(
        """async () => {
            const { MarkdownView } = await import("/static/chat/markdown.js");
            const element = document.createElement("div");
            const view = new MarkdownView(element);
            const text = "One.\\n\\n- a\\n- b\\n\\nTwo.\\n\\n| x |\\n|---|\\n| 1 |\\n";
            view.update(text);
            for (const node of element.querySelectorAll("p, li, tr")) node.isOld = true;
            view.update(text + "| 2 |\\n\\nMore.\\n\\nAnd [more](https://a.example)");
            const nodes = [...element.querySelectorAll("p, li, tr")];
            return nodes.map((node) => [node.textContent.trim(), node.isOld ?? false]);
        }"""
    )
    assert [text for text, is_old in kept if not is_old] == ["2", "More.", "And more"]


def test_code_keeps_its_text_its_colours_and_its_elements_while_it_grows(chat):
    lines = ["x = 1"]
    lines += [f"{number}'''  # end" if number % 2 else f"x{number} = '''{number}" for number in range(2, 201)]
    code = "\n".join(lines)
    body = drawn(chat, f"```python\n{code}\n```\n")
    body.locator(".hljs-string").first.wait_for()
    chat.wait_for_function("document.querySelectorAll('.drawn .lines:last-child .hljs-comment').length > 0")
    assert body.locator("pre").evaluate("pre => pre.textContent") == code
    selected = """() => {
        getSelection().selectAllChildren(document.querySelector(".drawn code"));
        return getSelection().toString();
    }"""
    assert chat.evaluate(selected).rstrip("\n") == code
    assert body.locator(".lines").count() == 4
    later = body.locator(".lines").nth(1).locator("span").first  # the string that line 50 opens ends in the next piece
    assert later.get_attribute("class") == "hljs-string" and later.inner_text() == "51'''"


def test_code_in_an_unknown_language_has_no_colours(chat):
    body = drawn(chat, "```klingon\nif x: pass\n```\n\n```python\nif x: pass\n```\n")
    body.locator(".hljs-keyword").first.wait_for()
    assert body.locator(".code").nth(0).locator(".hljs-keyword").count() == 0
    assert body.locator(".code-head span").all_inner_texts() == ["klingon", "python"]


# Formulas


def test_formulas_are_typeset_and_prices_are_not(chat):
    body = drawn(
        chat,
        "**Let $x^*_1 < y_2$** and \\(a_b\\). It costs $5, $10, US$3 or \\$4; $HOME:$PATH.\n\n$$\n\\frac{1}{2}\n$$\n",
    )
    body.locator(".katex").first.wait_for()
    assert body.locator("strong .formula annotation").text_content() == "x^*_1 < y_2"
    assert body.locator("annotation").all_text_contents() == ["x^*_1 < y_2", "a_b", "\\frac{1}{2}"]
    assert body.locator(".formula.display .mfrac").count() == 1
    assert "It costs $5, $10, US$3 or $4; $HOME:$PATH." in body.inner_text()
    assert body.locator("math").count() == 3  # for screen readers


def test_katex_is_loaded_with_the_first_formula_only(chat):
    requests = []
    chat.on("request", lambda request: requests.append(request.url))
    drawn(chat, "Text and `$code$`.")
    assert not [url for url in requests if "katex" in url]
    body = drawn(chat, "$x$ and $$\\sum_{i=0}^n i$$")
    body.locator(".katex").first.wait_for()
    chat.evaluate("document.fonts.ready")
    fonts = {url.rsplit("/")[-1] for url in requests if "fonts" in url}
    assert fonts and all(name.endswith(".woff2") for name in fonts)


@pytest.mark.parametrize(
    "text",
    [
        "$\\frac{$",
        "$\\href{javascript:alert(1)}{x}$",
        "$\\includegraphics{https://example.com/x.png}$",
        "$\\htmlClass{chat}{x}$",
        "$\\def\\a{\\a\\a}\\a$",
        "$<img src=x onerror=alert(1)>$",
        "$\\rule{1000em}{1000em}$",
    ],
)
def test_no_formula_runs_loads_or_breaks_anything(chat, text):
    """`page` fails the test if a dialog opens or the policy stops something."""
    body = drawn(chat, text + "\n\nThe end. $y$")
    body.locator(".katex").first.wait_for()
    assert body.locator("[href], img, script").count() == 0
    assert body.evaluate("element => element.scrollWidth <= element.clientWidth + 1")


# Tables


def test_a_column_is_never_so_narrow_that_a_number_breaks(chat):
    head = "| Region | Revenue | Cost | Margin | Growth | Notes |\n|---|--:|--:|--:|--:|---|\n"
    row = (
        "| North-Rhine | 1,204,000 | 1,003,500 | 200,500 | 12.25% | A long remark about what happened in this year |\n"
    )
    for width in (1280, 390):
        chat.set_viewport_size({"width": width, "height": 800})
        body = drawn(chat, head + row * 3)
        numbers = body.locator("tbody td:nth-child(n+2):nth-child(-n+5)")
        lines = """cells => cells.map(cell => {
            const range = document.createRange();
            range.selectNodeContents(cell);
            return range.getClientRects().length;
        })"""
        assert numbers.evaluate_all(lines) == [1] * 12
        assert chat.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_environments_without_dollars_are_set_and_plain_tags_have_their_effect(chat):
    body = drawn(chat, "\\begin{align}\nx &= 1 \\\\ y &= 2\n\\end{align}\n\nH<sub>2</sub>O<br><a onclick=x>no</a>\n")
    chat.wait_for_selector(".drawn .formula.display .katex")
    assert body.locator("sub").inner_text() == "2"
    assert "<a onclick=x>no</a>" in body.inner_text() and body.locator("br").count() == 1


def test_a_finished_answer_is_read_once_however_many_frames_it_takes(chat):
    numbers = chat.evaluate(
        """async (text) => {
            const { MarkdownView } = await import("/static/chat/markdown.js");
            const view = new MarkdownView(document.createElement("div"));
            const read = view.read.bind(view);
            let [reads, frames] = [0, 1];
            view.read = (part) => (reads++, read(part));
            while (!view.update(text, 0)) frames++;
            return [reads, frames];
        }""",
        LONG,
    )
    assert numbers[0] == 1 and numbers[1] > 50


# Footnotes and details


def test_footnotes_are_reached_and_left_by_their_buttons(chat):
    body = drawn(chat, "One[^a], two[^b], `[^a]`, none[^c].\n\n[^a]: First.\n[^b]: Second, *long*,\n  further.\n")
    assert body.locator("p").first.inner_text() == "One1, two2, [^a], none[^c]."
    assert body.locator(".footnotes li em").inner_text() == "long"
    body.get_by_role("button", name="Footnote 2", exact=True).press("Enter")
    assert chat.evaluate("document.activeElement.textContent").startswith("Second, long,")
    body.get_by_role("button", name="Back from footnote 2").press("Enter")
    assert chat.evaluate("document.activeElement.ariaLabel") == "Footnote 2"


def test_details_hold_markdown_and_stay_open_while_they_grow(chat):
    found = chat.evaluate(
        """async () => {
            const { MarkdownView } = await import("/static/chat/markdown.js");
            const element = document.createElement("div");
            const view = new MarkdownView(element);
            const text = "<details onclick=x>\\n\\n<details>\\n<summary>More *here*</summary>\\n\\n- a\\n\\nsome";
            view.update(text);
            const details = element.querySelector("details");
            details.open = true;
            details.querySelector("p").isOld = true;
            view.update(text + " `words`.\\n\\nEnd.\\n</details>\\n</details>\\n\\nAfter.");
            const inner = [...details.querySelector("details").lastChild.children].map((one) => one.textContent.trim());
            const isSame = element.querySelector("details") === details && details.open;
            const title = details.querySelector("summary em").textContent;
            return [title, inner, isSame, element.lastElementChild.textContent];
        }"""
    )
    assert found == ["here", ["a", "some words.", "End."], True, "After."]
    nested = drawn(chat, "<details><summary>a</summary>" * 100 + "<img src=x onerror=alert(1)>")
    assert nested.locator("details").count() < 40 and nested.locator("img").count() == 0
