"""Cuts text into tokens by a table of regular expressions: the longest match wins, then the first.

That is what lex, flex and JFlex do, and what Python's `re` does not: its alternatives stop at the
first that fits. The table becomes one automaton, whose states are made when a text first needs
them, so that scanning costs about one dictionary look-up a character.

Patterns are written as for `re`, with these parts only: characters and escapes, `[classes]`,
`(groups)`, `|`, `?`, `*`, `+`, `{2}`, `{2,4}`, and `{NAME}` for a definition. A letter outside a
class matches in either case; a class matches what it says.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

_ANY = r"[\s\S]"
_SPECIAL = "|)?*+"

Build = Callable[[int], int]  # makes the states of a part that goes on to a state; gives its first


@dataclass(frozen=True)
class Rule:
    """What a kind of token looks like.

    Args:
        pattern: of the token.
        act: turns the text matched into the token, or None when there is none.
        follow: what must come next; it counts for the length of the match, but is not consumed.
        give_back: characters at the end of the match that are read again.
        is_given_back_too: whether the token keeps the characters that are read again.
    """

    pattern: str
    act: Callable[[str], str | None] = str
    follow: str | None = None
    give_back: int = 0
    is_given_back_too: bool = False


class Lexer:
    """Cuts texts into tokens.

    Args:
        rules: where two match equally much, the earlier wins.
        definitions: patterns by name, for `{NAME}`.
    """

    def __init__(self, rules: Sequence[Rule], definitions: Mapping[str, str]) -> None:
        self.rules = tuple(rules)
        whole = [(rule.pattern, rule.follow or "") for rule in rules]
        self._automaton = _Automaton(whole, definitions)
        self._parts = {
            at: (_Automaton([(pattern,)], definitions), _Automaton([(follow,)], definitions))
            for at, (pattern, follow) in enumerate(whole)
            if follow
        }

    def tokens(self, text: str) -> list[str]:
        """Reads a text to its end; a character that no rule takes is left out."""
        found = []
        position = 0
        while position < len(text):
            at, end = self._automaton.longest(text, position)
            if end == position:
                position += 1
                continue
            if at in self._parts:
                end = self._token_end(at, text, position, end)
            rule = self.rules[at]
            next_position = max(end - rule.give_back, position + 1)
            matched = text[position : end if rule.is_given_back_too else next_position]
            token = rule.act(matched)
            if token is not None:
                found.append(token)
            position = next_position
        return found

    def _token_end(self, at: int, text: str, start: int, end: int) -> int:
        """Where the token ends and what must follow begins: as late as possible."""
        token, follow = self._parts[at]
        for split in reversed(token.ends(text, start, end)):
            if end in follow.ends(text, split, end):
                return split
        raise AssertionError(f"rule {at} matched as a whole and not in parts")


@dataclass(eq=False)
class _State:
    """Where the patterns may stand after some characters.

    Args:
        positions: states of the patterns.
        pattern: the first that ends here; -1 for none.
    """

    positions: frozenset[int]
    pattern: int
    moves: dict[str, "_State | None"] = field(default_factory=dict)


class _Automaton:
    """Follows several patterns at once, one character at a time; each is given in parts."""

    def __init__(self, patterns: Sequence[Sequence[str]], definitions: Mapping[str, str]) -> None:
        self._definitions = definitions
        self._sets: dict[str, int] = {}  # number of each set of characters, by how it is written
        self._jumps: list[list[int]] = []  # by position: positions reached by no character
        self._steps: list[list[tuple[int, int]]] = []  # by position: (set, position after it)
        self._accepts: dict[int, int] = {}  # position -> pattern that ends there
        first = self._new()
        for at, parts in enumerate(patterns):
            after = self._new()
            self._accepts[after] = at
            for part in reversed(parts):
                after = _Parser(part, self).whole()(after)
            self._jumps[first].append(after)
        self._members: dict[str, frozenset[int]] = {}
        self._states: dict[frozenset[int], _State] = {}
        self._tests = [re.compile(text, _flags(text)) for text in self._sets]
        self._first = self._state({first})

    def longest(self, text: str, start: int) -> tuple[int, int]:
        """The pattern with the longest match and where it ends; (-1, start) when none matches."""
        state: _State | None = self._first
        found, end = -1, start
        for position in range(start, len(text)):
            state = self._move(state, text[position])  # type: ignore[arg-type]  # never None here
            if state is None:
                break
            if state.pattern >= 0:
                found, end = state.pattern, position + 1
        return found, end

    def ends(self, text: str, start: int, stop: int) -> list[int]:
        """All places up to `stop` where a match from `start` may end, in order."""
        state: _State | None = self._first
        found = []
        for position in range(start, stop + 1):
            if state is None:
                break
            if state.pattern >= 0:
                found.append(position)
            if position < stop:
                state = self._move(state, text[position])
        return found

    def _move(self, state: _State, character: str) -> _State | None:
        try:
            return state.moves[character]
        except KeyError:
            state.moves[character] = after = self._after(state, character)
            return after

    def _after(self, state: _State, character: str) -> _State | None:
        sets = self._sets_of(character)
        after = {
            target
            for position in state.positions
            for set_, target in self._steps[position]
            if set_ in sets
        }
        return self._state(after) if after else None

    def _sets_of(self, character: str) -> frozenset[int]:
        if character not in self._members:
            self._members[character] = frozenset(
                at for at, test in enumerate(self._tests) if test.match(character)
            )
        return self._members[character]

    def _state(self, positions: set[int]) -> _State:
        waiting, reached = list(positions), set(positions)
        while waiting:
            more = [at for at in self._jumps[waiting.pop()] if at not in reached]
            reached.update(more)
            waiting += more
        key = frozenset(reached)
        if key not in self._states:
            pattern = min((self._accepts[at] for at in key if at in self._accepts), default=-1)
            self._states[key] = _State(key, pattern)
        return self._states[key]

    def _new(self) -> int:
        self._jumps.append([])
        self._steps.append([])
        return len(self._jumps) - 1

    def one_of(self, characters: str) -> Build:
        """A part that takes one character of a set, written as for `re`."""
        number = self._sets.setdefault(characters, len(self._sets))

        def build(after: int) -> int:
            first = self._new()
            self._steps[first].append((number, after))
            return first

        return build

    def either(self, parts: Sequence[Build]) -> Build:
        """A part that takes what one of several parts takes."""

        def build(after: int) -> int:
            first = self._new()
            self._jumps[first] += [part(after) for part in parts]
            return first

        return build

    def repeated(self, part: Build, least: int, most: int | None) -> Build:
        """A part taken again and again; without end where `most` is None."""

        def build(after: int) -> int:
            if most is None:
                loop = self._new()
                self._jumps[loop] += [part(loop), after]
                first = loop
            else:
                first = after
                for _ in range(most - least):
                    maybe = self._new()
                    self._jumps[maybe] += [part(first), after]
                    first = maybe
            for _ in range(least):
                first = part(first)
            return first

        return build

    def defined(self, name: str) -> Build:
        """The part that a definition describes."""
        return _Parser(self._definitions[name], self).whole()


class _Parser:
    """Reads one pattern, character by character."""

    def __init__(self, pattern: str, automaton: _Automaton) -> None:
        self.pattern = pattern
        self.automaton = automaton
        self.at = 0

    def whole(self) -> Build:
        part = self._alternatives()
        if self.at < len(self.pattern):
            raise ValueError(f"{self.pattern!r}: {self.pattern[self.at]!r} at {self.at}")
        return part

    def _alternatives(self) -> Build:
        parts = [self._sequence()]
        while self._next() == "|":
            self.at += 1
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else self.automaton.either(parts)

    def _sequence(self) -> Build:
        parts: list[Build] = []
        while self._next() and self._next() not in "|)":
            parts.append(self._quantified())

        def build(after: int) -> int:
            for part in reversed(parts):
                after = part(after)
            return after

        return build

    def _quantified(self) -> Build:
        part = self._atom()
        while self._next():
            counted = re.compile(r"\{(\d+)(?:,(\d+))?\}").match(self.pattern, self.at)
            if counted:
                least, most = int(counted[1]), int(counted[2] or counted[1])
                part = self.automaton.repeated(part, least, most)
                self.at = counted.end()
            elif self._next() in "?*+":
                least, limit = {"?": (0, 1), "*": (0, None), "+": (1, None)}[self._next()]
                part = self.automaton.repeated(part, least, limit)
                self.at += 1
            else:
                break
        return part

    def _atom(self) -> Build:
        if self._next() == "(":
            self.at += 1
            part = self._alternatives()
            self._take(r"\)")
            return part
        if self._next() == "{":
            return self.automaton.defined(self._take(r"\{\w+\}")[1:-1])
        if self._next() == "[":
            return self.automaton.one_of(self._take(r"\[\^?(?:\\.|[^\]\\])+\]"))
        if self._next() == ".":
            self.at += 1
            return self.automaton.one_of(_ANY)
        if self._next() in _SPECIAL:
            raise ValueError(f"{self.pattern!r}: {self._next()!r} at {self.at}")
        character = self._take(r"\\[^\w\s]|[^\\]").removeprefix("\\")
        return self.automaton.one_of(re.escape(character))

    def _next(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def _take(self, pattern: str) -> str:
        found = re.compile(pattern).match(self.pattern, self.at)
        if not found:
            raise ValueError(f"{self.pattern!r}: not understood from {self.at}")
        self.at = found.end()
        return found[0]


def _flags(characters: str) -> re.RegexFlag:
    """A character by itself matches in either case, a class as it is written."""
    return re.NOFLAG if characters.startswith("[") else re.IGNORECASE
