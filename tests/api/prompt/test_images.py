"""Images in a conversation: those of tools' results are put where templates take them."""

from dataclasses import replace

import pytest

from api.prompt.images import images_of, placed_images
from api.schema.chat import ImageUrl, Message, Part
from common.errors import InvalidRequest
from common.images import MAX_IMAGES
from tests.api.cards import encoder
from tests.pictures import data_url

RED, GREEN = data_url("red"), data_url("green")
BLIND = encoder().card
SIGHTED = replace(BLIND, accepts_images=True)


def picture(url):
    return Part(type="image_url", image_url=ImageUrl(url=url))


def result(*parts):
    return Message(role="tool", tool_call_id="1", content=[Part(type="text", text="x.png"), *parts])


def shapes(messages):
    """Each message as its role and its parts: texts, and IMAGE."""
    return [
        (
            message.role,
            [part.text or "IMAGE" for part in message.content]
            if isinstance(message.content, list)
            else message.content,
        )
        for message in messages
    ]


def test_a_text_model_reads_a_line_in_place_of_a_tool_s_image():
    placed = placed_images([result(picture(RED))], BLIND)
    assert shapes(placed) == [("tool", ["x.png", "[image left out: this model reads text only]"])]
    assert images_of(placed, BLIND) == ()


def test_a_vision_model_gets_a_tool_s_images_in_the_next_message_of_the_user():
    turns = [result(picture(RED)), result(picture(GREEN)), Message(role="user", content="What now?")]
    placed = placed_images(turns, SIGHTED)
    assert shapes(placed) == [
        ("tool", ["x.png", "[image: below]"]),
        ("tool", ["x.png", "[image: below]"]),
        ("user", ["IMAGE", "IMAGE", "What now?"]),
    ]
    assert images_of(placed, SIGHTED) == (RED, GREEN)


@pytest.mark.parametrize("after", [[], [Message(role="assistant", content="Red.")]])
def test_without_a_user_s_message_after_the_result_it_gets_one_of_its_own(after):
    assert shapes(placed_images([result(picture(RED)), *after], SIGHTED)[1:2]) == [("user", ["IMAGE"])]


def test_the_newest_images_of_tools_are_kept_and_the_user_s_own_are_counted_first():
    own = Message(role="user", content=[picture(GREEN)] * 2)
    placed = placed_images([own, *[result(picture(RED))] * MAX_IMAGES], SIGHTED)
    assert [message.content[1].text[:16] for message in placed[1:4]] == [
        "[image left out:",
        "[image left out:",
        "[image: below]",
    ]
    assert images_of(placed, SIGHTED) == (GREEN, GREEN, *[RED] * (MAX_IMAGES - 2))


def test_a_tool_s_image_that_cannot_be_read_is_left_out_with_the_reason():
    [placed] = placed_images([result(picture("https://example.com/x.png"))], SIGHTED)
    assert placed.content[1].text.startswith("[image left out: An image must come as a data URL")


@pytest.mark.parametrize("num_images", [1, MAX_IMAGES + 1])
def test_a_user_s_own_image_is_refused_by_name(num_images):
    bad = [picture("https://example.com/x.png")] if num_images == 1 else [picture(RED)] * num_images
    with pytest.raises(InvalidRequest) as refused:
        placed_images([result(picture(RED)), Message(role="user", content=bad)], SIGHTED)
    assert refused.value.param == ("messages[1].content[0]" if num_images == 1 else "messages")


def test_a_conversation_without_images_in_results_stays_as_it_is():
    turns = [Message(role="user", content="Hi"), Message(role="tool", content="{}")]
    assert placed_images(turns, BLIND) == turns
