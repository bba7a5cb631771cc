"""The API reference at /docs in a real browser, against the real service."""

CHAT = '#operations [id$="post_v1_chat_completions"]'


def test_the_theme_is_that_of_the_other_pages(page, service):
    page.emulate_media(color_scheme="dark")
    page.goto(f"{service.url}/docs")
    page.wait_for_selector(CHAT)
    assert "dark-mode" in page.get_attribute("html", "class")
    page.click("#theme")
    assert page.get_attribute("html", "data-theme") == "light"
    page.wait_for_selector("html:not(.dark-mode)")


def test_no_request_leaves_the_server(page, service):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{service.url}/")
    page.click("text=API")
    page.wait_for_selector(CHAT)
    assert {url for url in asked if not url.startswith((service.url, "data:"))} == set()
