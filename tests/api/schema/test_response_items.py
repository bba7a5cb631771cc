"""The items of a response's input are told apart."""

import pytest

from api.schema.parse import parse
from api.schema.response_items import ReferenceItem, StoredItems


@pytest.mark.parametrize("more", [{}, {"type": None}, {"type": "item_reference"}])
def test_an_item_of_an_id_alone_is_a_reference(more):
    [item] = parse(StoredItems, {"items": [{"id": "msg_1"} | more]}).items
    assert isinstance(item, ReferenceItem)
