from hypothesis import given
from hypothesis import strategies as st

from aigq.history.item_prompt import ITEM_TOKENS, TEXT_CHARACTERS, Item, item_prompt, key_of
from aigq.history.prompt import SEPARATOR

TV = Item("1", "Sony  55 in. TV", "Sony", ["Shop", "Electronics", "TVs"], [("size", "55 in.")])


def test_the_fields_in_order_each_after_its_mark_the_category_from_its_last_two_levels():
    assert item_prompt(TV, ["sony tv", "led tv"]) == [
        "<title>", "sony 55 in. tv;;", "<brand>", "sony;;", "<category>", "electronics;;", "tvs;;",
        "<attributes>", "size 55 in.;;", "<asked>", "sony tv;;", "led tv;;", "<query>",
    ]  # fmt: skip


def test_what_nothing_sets_apart_has_no_prompt():
    assert item_prompt(Item("1", None, "Sony", ["TVs"]), []) == []
    assert item_prompt(Item("1", "  ", None, ["TVs"]), []) == []
    assert item_prompt(Item("1", None, None, ["TVs"]), ["tv"]) == [
        "<category>",
        "tvs;;",
        "<asked>",
        "tv;;",
        "<query>",
    ]


def test_contact_data_in_a_title_is_left_out():
    assert item_prompt(Item("1", "ask anna@example.org"), []) == []


def test_a_key_tells_what_is_read_and_nothing_else():
    keys = {key_of(item_prompt(item, asked)) for item, asked in [
        (TV, []), (TV, ["tv"]), (Item("1", "Sony 55 in. TV"), []), (Item("1", "Sony 65 in. TV"), []),
    ]}  # fmt: skip
    assert len(keys) == 4
    assert key_of(item_prompt(Item("2", "sony 55 in. tv"), [])) in keys  # another id, the same text


@given(st.text(max_size=400), st.text(max_size=40), st.text(max_size=40))
def test_no_field_can_forge_a_mark_or_a_separator(title, brand, name):
    for piece in item_prompt(Item("1", title, brand, [name], [(name, brand)]), []):
        if piece not in ITEM_TOKENS:
            text = piece.removesuffix(SEPARATOR)
            assert piece != text
            assert SEPARATOR not in text
            assert "<" not in text
            assert ">" not in text
            assert 0 < len(text) <= TEXT_CHARACTERS * 2  # a separator within becomes two characters
