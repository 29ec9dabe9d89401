"""The lexer on tables small enough to work out by hand."""

import re

import pytest

from jobs.lexer import Lexer, Rule


def tokens(text, *rules, **definitions):
    return Lexer(
        [rule if isinstance(rule, Rule) else Rule(rule) for rule in rules], definitions
    ).tokens(text)


def test_the_longest_match_wins_whatever_the_order():
    assert tokens("abcab", "ab", "a|b|c", "abc") == ["abc", "ab"]


def test_of_equal_matches_the_first_rule_wins():
    upper = Rule("[a-z]+", str.upper)
    assert tokens("ab", upper, "ab") == ["AB"]
    assert tokens("ab", "ab", upper) == ["ab"]


def test_an_alternative_that_fits_first_does_not_hide_a_longer_one():
    assert tokens("abab", "(a|ab|aba)(bab)?") == ["abab"]  # re stops at "a" + "bab"


def test_characters_that_no_rule_takes_are_left_out():
    assert tokens("a-b", "[ab]") == ["a", "b"]


def test_letters_match_in_either_case_and_classes_as_written():
    assert tokens("AbaB", "ab") == ["Ab", "aB"]
    assert tokens("aA", "[a]") == ["a"]


def test_what_must_follow_counts_for_the_length_but_is_not_taken():
    assert tokens("12kg 12", Rule("[0-9]+", "n".__add__, follow="kg"), "[0-9a-z]+") == [
        "n12",
        "kg",
        "12",
    ]


def test_what_must_follow_begins_as_late_as_possible():
    assert tokens("aaab", Rule("a+", follow="a*b")) == ["aaa"]


def test_characters_given_back_are_read_again():
    assert tokens("cannot", Rule("cannot", give_back=3), "not") == ["can", "not"]
    kept = Rule(r"U\.S\.", give_back=1, is_given_back_too=True)
    assert tokens("U.S.", kept, r"\.") == ["U.S.", "."]


@pytest.mark.parametrize(
    ("pattern", "whole", "cut"),
    [("a{2,3}", "aaa", "aa"), ("a{2}", "aa", "a"), ("(ab)+c?", "ababc", "abab")],
)
def test_repetition_takes_as_much_as_it_may(pattern, whole, cut):
    assert tokens(whole, pattern) == [whole]
    assert tokens(cut + "?", pattern) == ([cut] if re.fullmatch(pattern, cut) else [])


def test_definitions_may_use_each_other():
    assert tokens("10.5", "{NUMBER}", NUMBER=r"{DIGIT}+\.{DIGIT}+", DIGIT="[0-9]") == ["10.5"]


@pytest.mark.parametrize("pattern", ["a)", "*a", "[a", r"\d", "a{x y}"])
def test_a_pattern_that_is_not_understood_is_refused(pattern):
    with pytest.raises(ValueError, match=re.escape(repr(pattern))):
        tokens("a", pattern)
