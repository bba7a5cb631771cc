"""The box to type in: files beside a message, keys, what waits to be sent, and refusals tried again by themselves."""

import base64

from tests.e2e.test_page import ANSWER, answer, say, until_done, wait_for_words

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
IMAGE = {"name": "dot.png", "mimeType": "image/png", "buffer": PNG}
NOTES = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"Buy milk."}


KEPT = """() => new Promise((resolve) => {
    indexedDB.open("omni.drafts").onsuccess = ({ target: { result } }) => {
        result.transaction("trays").objectStore("trays").getAllKeys().onsuccess = (event) => {
            result.close();
            resolve(event.target.result);
        };
    };
})"""
HELVETICA = "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
GOTHIC = """<</Type/Font/Subtype/Type0/BaseFont/Gothic/Encoding/90ms-RKSJ-H/DescendantFonts[<</Type/Font
/Subtype/CIDFontType0/BaseFont/Gothic/FontDescriptor<</Type/FontDescriptor/FontName/Gothic/Flags 4
/FontBBox[0 0 1000 1000]/ItalicAngle 0/Ascent 800/Descent -200/CapHeight 700/StemV 80>>
/CIDSystemInfo<</Registry(Adobe)/Ordering(Japan1)/Supplement 2>>>>]>>"""


def pdf(text, font=HELVETICA):
    stream = f"BT /F1 24 Tf 72 720 Td {text if text.startswith('<') else f'({text})'} Tj ET"
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        f"<</Length {len(stream)}>>stream\n{stream}\nendstream",
        font,
    ]
    body = "%PDF-1.4\n" + "".join(f"{n} 0 obj\n{text}\nendobj\n" for n, text in enumerate(objects, 1))
    return (body + "trailer<</Root 1 0 R/Size 6>>\n%%EOF").encode()


def attach(page, *files):
    page.set_input_files("#files", [*files])
    page.wait_for_function("() => document.querySelector('#tray-note').textContent !== 'Reading…'")


# Files


def test_files_go_with_the_message_and_stay_with_it(chat, backend):
    requests = []
    chat.on("request", lambda request: requests.append(request.url))
    attach(chat, IMAGE, NOTES)
    assert not [url for url in requests if "pdf" in url], "the reader of PDFs comes with the first PDF"
    attach(chat, {"name": "plan.pdf", "mimeType": "application/pdf", "buffer": pdf("The plan of the house")})
    assert chat.locator("#tray li").count() == 3
    say(chat, "What is this?")
    until_done(chat)
    image, text = backend.bodies[-1]["messages"][-1]["content"]
    assert image == {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + base64.b64encode(PNG).decode()},
    }
    for part in ("File notes.txt:\n\nBuy milk.", "File plan.pdf:\n\nThe plan of the house", "\n\nWhat is this?"):
        assert part in text["text"]
    assert chat.locator("#tray li").count() == 0
    assert chat.locator(".message.user .attachment").count() == 3
    chat.reload()
    chat.wait_for_selector(".message.user .attachment img")
    say(chat, "And now?")
    until_done(chat)
    assert backend.bodies[-1]["messages"][0]["content"] == [image, text]


def tray(page):
    return page.locator("#tray li").all_inner_texts()


def test_files_wait_in_their_chat_over_a_reload(chat, backend):
    say(chat, "hello")
    until_done(chat)
    attach(chat, NOTES, IMAGE)
    chat.fill("#text", "What is this?")
    chat.click("#new-chat")
    assert tray(chat) == []
    attach(chat, NOTES | {"name": "other.txt"})
    chat.reload()
    chat.wait_for_selector("#tray li")
    assert tray(chat) == ["other.txt · 9 characters"]
    chat.click("#conversations .title >> text=hello")
    chat.wait_for_selector("#tray img")
    assert (tray(chat)[0], chat.input_value("#text")) == ("notes.txt · 9 characters", "What is this?")
    chat.click("[aria-label='Remove dot.png']")
    chat.press("#text", "Enter")
    chat.wait_for_selector(f"{ANSWER}:has-text('What is this?')")
    until_done(chat)
    assert "Buy milk." in backend.bodies[-1]["messages"][-1]["content"]
    chat.reload()
    chat.wait_for_selector(f"{ANSWER}:has-text('What is this?')")
    assert tray(chat) == []
    assert chat.evaluate(KEPT) == ["new"]
    chat.click("#new-chat")
    chat.wait_for_selector("#tray li")
    assert tray(chat) == ["other.txt · 9 characters"]


def test_a_japanese_pdf_is_read_by_the_tables_that_are_kept_here(chat):
    text = pdf(f"<{'日本語の計画'.encode('shift_jis').hex()}>", GOTHIC)
    attach(chat, {"name": "plan.pdf", "mimeType": "application/pdf", "buffer": text})
    assert chat.locator("#tray li").all_inner_texts() == ["plan.pdf · 6 characters"]
    say(chat, "What is this?")
    until_done(chat)
    assert chat.text_content(".message.user .attachment pre") == "日本語の計画"


def test_files_are_pasted_dropped_and_removed(chat):
    hand = """([selector, name, field]) => {
        const files = new DataTransfer();
        files.items.add(new File(["a,b"], "table.csv", { type: "text/csv" }));
        const event = new Event(name, { bubbles: true, cancelable: true });
        Object.defineProperty(event, field, { value: files });
        document.querySelector(selector).dispatchEvent(event);
    }"""
    chat.evaluate(hand, ["#text", "paste", "clipboardData"])
    chat.wait_for_selector("#tray li >> nth=0")
    chat.evaluate(hand, ["#scroller", "dragover", "dataTransfer"])
    assert chat.locator("main.dropping").count() == 1
    chat.evaluate(hand, ["#scroller", "drop", "dataTransfer"])
    chat.wait_for_selector("#tray li >> nth=1")
    assert chat.locator("main.dropping").count() == 0
    chat.click("[aria-label='Remove table.csv'] >> nth=0")
    assert chat.locator("#tray li").count() == 1
    assert chat.evaluate("document.activeElement.id") == "text"


def test_a_file_that_cannot_be_taken_is_refused_by_name_and_the_others_stay(chat):
    binary = {"name": "a.docx", "mimeType": "application/zip", "buffer": b"PK\0\xff"}
    broken = {"name": "b.png", "mimeType": "image/png", "buffer": b"no picture"}
    scan = {"name": "scan.pdf", "mimeType": "application/pdf", "buffer": pdf("")}
    long = {"name": "long.txt", "mimeType": "text/plain", "buffer": b"x" * 1_000_001}
    attach(chat, binary, broken, scan, long, NOTES)
    told = chat.inner_text("#tray-note")
    for part in (
        "a.docx is neither an image, a PDF nor text in UTF-8.",
        "b.png cannot be read as an image. Use PNG, JPEG, WebP or GIF.",
        "scan.pdf has no text, only pictures of its pages.",
        "long.txt has 1,000,001 characters; 1,000,000 are allowed.",
    ):
        assert part in told
    assert chat.locator("#tray li").all_inner_texts() == ["notes.txt · 9 characters"]
    attach(chat, *[IMAGE | {"name": f"{n}.png"} for n in range(9)])
    assert "A conversation may have 8 images. Start a new chat for 8.png." in chat.inner_text("#tray-note")


def test_a_large_image_is_scaled(chat, backend):
    url = chat.evaluate(
        """() => {
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [4096, 1024];
            return canvas.toDataURL("image/jpeg");
        }"""
    )
    attach(chat, {"name": "wide.jpg", "mimeType": "image/jpeg", "buffer": base64.b64decode(url.partition(",")[2])})
    assert chat.evaluate("document.querySelector('#tray img').naturalWidth") == 2048


def test_a_model_that_reads_text_only_gets_no_images(page, backend):
    sees = {"architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]}}
    reads = {"architecture": {"input_modalities": ["text"], "output_modalities": ["text"]}}
    backend.models = [{"id": "sees"} | sees, {"id": "reads"} | reads]
    page.goto(backend.url)
    page.wait_for_selector("#model option", state="attached")
    assert page.get_attribute("#attach", "title").startswith("Attach files. Images")
    attach(page, IMAGE)
    page.select_option("#model", "reads")
    assert "reads reads text only" in page.get_attribute("#attach", "title")
    say(page, "What is this?")
    page.wait_for_selector("#send-note:has-text('a model that reads images is picked, or the images are removed')")
    attach(page, IMAGE | {"name": "two.png"})
    told = "two.png is an image. reads reads text only; pick a model that reads images."
    assert page.inner_text("#tray-note") == told
    page.select_option("#model", "sees")
    until_done(page)
    assert (backend.bodies[-1]["model"], page.locator(".message.user .attachment").count()) == ("sees", 1)


def test_images_leave_with_an_edit_or_when_the_model_reads_text_only(page, backend):
    backend.models = [{"id": "sees"}, {"id": "reads", "architecture": {"input_modalities": ["text"]}}]
    page.goto(backend.url)
    page.wait_for_selector("#model option", state="attached")
    attach(page, IMAGE, NOTES)
    say(page, "What is this?")
    until_done(page)
    page.select_option("#model", "reads")
    say(page, "And this?")
    page.wait_for_selector(f"{ANSWER}:has-text('And this?')")
    until_done(page)
    told = "(The image dot.png was shown to another model; you cannot see it.)"
    assert backend.bodies[-1]["messages"][0]["content"].startswith(told)
    page.click(".message.user >> nth=0 >> [aria-label^=Edit]")
    page.click(".edit [aria-label='Remove dot.png']")
    page.press("[aria-label='Edit message']", "Control+Enter")
    page.wait_for_selector(f"{ANSWER}:has-text('What is this?')")
    assert page.locator(".message.user .attachment").all_inner_texts() == ["notes.txt · 9 characters"]
    assert "dot.png" not in str(backend.bodies[-1]["messages"])


# What waits


def test_a_message_waits_for_a_model_and_is_sent_by_itself(page, backend):
    models, backend.models = backend.models, []
    page.clock.install()
    page.goto(backend.url)
    page.wait_for_function("() => document.querySelector('#model') !== null")
    say(page, "hello")
    page.wait_for_selector("#send-note:has-text('Sent as soon as a model is there.')")
    backend.models = models
    page.reload()
    page.wait_for_selector("#model option", state="attached")
    say(page, "hello")
    page.clock.run_for(1000)
    until_done(page)
    assert answer(page) == "You said: hello"


def test_a_refusal_that_passes_counts_down_and_is_tried_again(chat, backend):
    backend.refusals += [(429, {"message": "The queue is full.", "retry_after": 1}), (503, {"message": "Loading."})]
    say(chat, "hello")
    chat.wait_for_selector(f"{ANSWER} .notice:has-text('The queue is full.'):has-text('Trying again in 1 s.')")
    chat.wait_for_selector(f"{ANSWER} .notice:has-text('Loading.'):has-text('Trying again in')")
    chat.click("button:text-is('Try now')")
    until_done(chat)
    assert answer(chat) == "You said: hello"
    assert (len(backend.bodies), len(backend.jobs)) == (3, 1)


def test_stop_ends_the_waiting(chat, backend):
    backend.refusals.append((429, {"message": "The queue is full.", "retry_after": 60}))
    say(chat, "hello")
    chat.wait_for_selector("button:text-is('Try now')")
    chat.keyboard.press("Escape")
    until_done(chat)
    assert "Stopped" in chat.inner_text(f"{ANSWER} .status")
    assert len(backend.bodies) == 1


# Keys and facts


def test_the_sheet_of_shortcuts_and_its_keys(chat):
    chat.press("#text", "?")
    assert chat.input_value("#text") == "?" and chat.locator("#shortcuts[open]").count() == 0
    chat.fill("#text", "slow")
    chat.press("#text", "Enter")
    wait_for_words(chat, 3)
    chat.focus("#theme")
    chat.keyboard.press("?")
    chat.wait_for_selector("#shortcuts[open]")
    chat.keyboard.press("Escape")
    assert chat.locator("#shortcuts[open]").count() == 0
    assert chat.evaluate("document.activeElement.id") == "theme"
    chat.keyboard.press("/")
    assert chat.evaluate("document.activeElement.id") == "text"
    chat.keyboard.press("Control+Shift+O")
    assert chat.locator(".welcome").count() == 1
    chat.keyboard.press("Control+,")
    assert chat.is_visible("#panel")


def test_up_in_an_empty_box_edits_the_last_message(chat):
    say(chat, "first")
    until_done(chat)
    chat.press("#text", "ArrowUp")
    assert chat.input_value("[aria-label='Edit message']") == "first"


def test_the_facts_of_the_picked_model_stand_beside_it(page, backend):
    backend.models = [{"id": "a", "root": "org/A-8B", "max_model_len": 32768, "status": {"state": "loaded"}}]
    page.goto(backend.url)
    page.wait_for_selector("#model-facts:has-text('org/A-8B · 32,768 tokens of context · loaded')")
    say(page, "hi")
    until_done(page)
    page.wait_for_selector("#model-facts:has-text('org/A-8B · 10 of 32,768 tokens of context · loaded')")
