"""axe finds nothing in the states of the list of conversations."""

from pathlib import Path

from tests.e2e.page.talk import ANSWER, ask, choose, until_done

AXE = Path(__file__).parents[1] / "vendor" / "axe.min.js"
FOUND = "async () => (await axe.run()).violations.map(rule => [rule.id, rule.nodes.map(node => node.html)])"


def test_axe_finds_nothing_in_the_list_its_menus_and_variants(chat):
    chat.evaluate(AXE.read_text())
    ask(chat, "one")
    chat.click(f"{ANSWER} [aria-label=Regenerate]")
    chat.wait_for_selector(".variants")
    until_done(chat)
    choose(chat, "one", "Move to folder…")
    found = {"dialog": chat.evaluate(FOUND)}
    chat.fill("dialog.ask input", "Home")
    chat.keyboard.press("Enter")
    chat.wait_for_selector(".fold-title")
    chat.click("[aria-label='Actions for one']")
    found["menu"] = chat.evaluate(FOUND)
    chat.click(".menu >> text=Rename")
    found["name"] = chat.evaluate(FOUND)
    chat.keyboard.press("Escape")
    chat.fill("#search", "said")
    chat.wait_for_selector("mark")
    found["search"] = chat.evaluate(FOUND)
    chat.press("#search", "Escape")
    choose(chat, "one", "Delete")
    chat.wait_for_selector("#toast:visible")
    found["undo"] = chat.evaluate(FOUND)
    assert {state: rules for state, rules in found.items() if rules} == {}
