import pytest

from mmsr.bundle.compose import compose_text, with_brand
from mmsr.training.features.config import TEXT_FIELDS


def test_fields_are_joined_in_order() -> None:
    item = {
        "title": "Red shoe",
        "brand": "Acme",
        "categories": ["Shoes", "Men"],
        "description": "Soft.",
    }
    assert compose_text(item, TEXT_FIELDS) == "Red shoe. Acme. Shoes, Men. Soft."
    assert compose_text(item, ("description", "title")) == "Soft.. Red shoe"


def test_empty_fields_are_left_out_and_whitespace_is_normalised() -> None:
    item = {"title": " Red\n\tshoe ", "brand": "", "categories": ["", " Men "], "description": None}
    assert compose_text(item, TEXT_FIELDS) == "Red shoe. Men"


def test_an_item_without_any_text_is_empty() -> None:
    assert compose_text({"title": None, "categories": []}, TEXT_FIELDS) == ""


def test_a_field_of_another_kind_is_an_error() -> None:
    with pytest.raises(TypeError, match="is int, expected text"):
        compose_text({"title": 3}, TEXT_FIELDS)


def test_a_brand_is_a_category_where_the_data_know_it_as_one() -> None:
    known = {"Shoes", "brand: Acme"}
    assert with_brand(["Shoes"], "Acme", known) == ("Shoes", "brand: Acme")
    assert with_brand(["brand: Acme"], "Acme", known) == ("brand: Acme",)
    assert with_brand(["Shoes"], "Nobody", known) == ("Shoes",)
    assert with_brand(["Shoes"], "", {"brand: "}) == ("Shoes",)
