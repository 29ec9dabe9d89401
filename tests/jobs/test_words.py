import pytest

from jobs.words import words_to_ask, words_to_find


def test_chinese_is_found_by_characters_and_by_neighbours():
    assert words_to_find("红苹果") == "红 苹 果 红苹 苹果"
    assert words_to_ask("苹果") == "苹果"
    assert words_to_ask("红") == "红"
    assert set(words_to_ask("红苹").split()) <= set(words_to_find("一个红苹果").split())
    assert not set(words_to_ask("果红").split()) & set(words_to_find("红苹果").split())


def test_words_with_spaces_stay_whole_beside_chinese():
    assert words_to_find("A red-hot 汽车2 o'clock") == "A red hot 汽 车 汽车 2 o clock"


def test_full_width_letters_are_letters():
    assert words_to_find("ＡＢＣ　１２") == "ABC 12"


@pytest.mark.parametrize("text", ["", "  ", "!?。，", '" OR ('])
def test_marks_are_no_words(text):
    assert words_to_ask(text) in ("", "OR")
