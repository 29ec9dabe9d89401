"""The search, over tables of scores small enough to work out by hand."""

import math
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from operators.models.beam import Beam, Hypothesis, OpenBeam, search, search_open

BEGIN, PAD, END, A, B, C = range(6)
SIZE = 6
NEXT = {  # after a token: the probability of each of END, A, B, C
    BEGIN: (0.0, 0.5, 0.4, 0.1),
    A: (0.1, 0.2, 0.2, 0.5),
    B: (0.7, 0.1, 0.1, 0.1),
    C: (0.5, 0.3, 0.1, 0.1),
}


def logits_after(token: int, table: dict[int, tuple[float, ...]]) -> list[float]:
    chances = dict(zip((END, A, B, C), table.get(token, (1.0, 0.0, 0.0, 0.0)), strict=True))
    return [math.log(chances[t]) if chances.get(t) else -math.inf for t in range(SIZE)]


def step(tokens: Tensor, parents: Tensor | None) -> Tensor:
    return torch.tensor([logits_after(row[-1], NEXT) for row in tokens.tolist()])


def every_sentence(longest: int) -> list[Hypothesis]:
    """All sentences of the table with their scores, best first."""
    found = []
    for length in range(longest + 1):
        for tokens in product((A, B, C), repeat=length):
            path = (BEGIN, *tokens, END)
            total = sum(logits_after(before, NEXT)[after] for before, after in pairwise(path))
            if total > -math.inf:
                found.append(Hypothesis(tokens, total / (length + 1)))
    return sorted(found, key=lambda hypothesis: -hypothesis.score)


def test_a_wide_beam_finds_the_best_of_all_sentences():
    best, second = every_sentence(longest=3)[:2]
    [found] = search(step, 1, Beam(beam_size=5, max_tokens=3))
    assert found[0].tokens == best.tokens == (B,)
    assert found[0].score == pytest.approx(best.score)
    assert found[1].tokens == second.tokens == (A, C)


def test_a_beam_of_one_takes_the_best_token_each_time():
    [found] = search(step, 1, Beam(beam_size=1, max_tokens=5))
    assert found == [Hypothesis((A, C), pytest.approx(math.log(0.5 * 0.5 * 0.5) / 3))]


def test_as_many_hypotheses_as_beams_are_finished_best_first():
    [found] = search(step, 1, Beam(beam_size=4, max_tokens=6))
    assert len(found) == 4
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    assert len({h.tokens for h in found}) == 4


def test_scores_are_sums_of_log_probabilities_over_length_with_the_end_counted():
    known = {h.tokens: h.score for h in every_sentence(longest=6)}
    [found] = search(step, 1, Beam(beam_size=4, max_tokens=6))
    assert all(h.score == pytest.approx(known[h.tokens]) for h in found)


def test_a_length_penalty_of_zero_leaves_the_sum():
    [found] = search(step, 1, Beam(beam_size=1, max_tokens=5, length_penalty=0.0))
    assert found[0].score == pytest.approx(math.log(0.5 * 0.5 * 0.5))


def test_no_sentence_is_shorter_than_the_minimum():
    [found] = search(step, 1, Beam(beam_size=4, min_tokens=3, max_tokens=6))
    assert min(len(h.tokens) for h in found) == 3


def test_no_sentence_is_longer_than_the_maximum():
    endless = {BEGIN: (0.0, 1.0, 0.0, 0.0), A: (1e-6, 1.0, 0.0, 0.0)}

    def never_ends(tokens: Tensor, parents: Tensor | None) -> Tensor:
        return torch.tensor([logits_after(row[-1], endless) for row in tokens.tolist()])

    [found] = search(never_ends, 1, Beam(beam_size=1, max_tokens=4))
    assert found[0].tokens == (A, A, A, A)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_occurs_twice(size):
    likes_to_repeat = {
        BEGIN: (0.0, 0.6, 0.4, 0.0),
        A: (0.1, 0.6, 0.3, 0.0),
        B: (0.1, 0.5, 0.4, 0.0),
    }

    def repeating(tokens: Tensor, parents: Tensor | None) -> Tensor:
        return torch.tensor([logits_after(row[-1], likes_to_repeat) for row in tokens.tolist()])

    beam = Beam(beam_size=3, max_tokens=8, min_tokens=2, no_repeat_ngram=size)
    [found] = search(repeating, 1, beam)
    for hypothesis in found:
        text = (BEGIN, *hypothesis.tokens)
        ngrams = [text[i : i + size] for i in range(len(text) - size + 1)]
        assert len(set(ngrams)) == len(ngrams)


def test_ngrams_may_repeat_when_nothing_is_said_of_them():
    endless = {BEGIN: (0.0, 1.0, 0.0, 0.0), A: (0.01, 0.99, 0.0, 0.0)}

    def repeating(tokens: Tensor, parents: Tensor | None) -> Tensor:
        return torch.tensor([logits_after(row[-1], endless) for row in tokens.tolist()])

    [found] = search(repeating, 1, Beam(beam_size=1, max_tokens=5, no_repeat_ngram=0))
    assert found[0].tokens == (A,) * 5


def test_pad_is_never_chosen():
    def likes_pad(tokens: Tensor, parents: Tensor | None) -> Tensor:
        logits = torch.zeros(len(tokens), SIZE)
        logits[:, PAD] = 100.0
        return logits

    [found] = search(likes_pad, 1, Beam(beam_size=3, max_tokens=3))
    assert all(PAD not in h.tokens for h in found)


def random_model(seed: int, vocabulary: int):
    """Logits that depend on all tokens so far and on which input a row belongs to."""
    table = torch.randn(7919, vocabulary, generator=torch.Generator().manual_seed(seed)) * 2

    class Model:
        def __init__(self, inputs: list[int]) -> None:
            self.rows = inputs

        def __call__(self, tokens: Tensor, parents: Tensor | None) -> Tensor:
            if parents is not None:
                self.rows = [self.rows[parent] for parent in parents.tolist()]
            assert len(self.rows) == len(tokens)
            states = [
                hash((row, *text)) % len(table)
                for row, text in zip(self.rows, tokens.tolist(), strict=True)
            ]
            return table[states]

    return Model


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("vocabulary", [5, 7, 40])
def test_an_inputs_result_does_not_depend_on_its_company(seed, vocabulary):
    model = random_model(seed, vocabulary)
    beam = Beam(beam_size=4, max_tokens=7, no_repeat_ngram=2)
    together = search(model(list(range(6))), 6, beam)
    alone = [search(model([number]), 1, beam)[0] for number in range(6)]
    assert together == alone


def test_parents_lead_to_the_row_whose_tokens_are_continued():
    history: list[list[list[int]]] = []
    model = random_model(3, 30)([0, 1, 2])

    def watched(tokens: Tensor, parents: Tensor | None) -> Tensor:
        if parents is not None:
            before = [history[-1][parent] for parent in parents.tolist()]
            assert [row[:-1] for row in tokens.tolist()] == before
        history.append(tokens.tolist())
        return model(tokens, parents)

    search(watched, 3, Beam(beam_size=3, max_tokens=6))
    assert len(history) > 3


def test_a_model_without_numbers_yields_no_hypotheses_and_does_not_harm_its_neighbour():
    def half_broken(tokens: Tensor, parents: Tensor | None) -> Tensor:
        nonlocal broken
        broken = broken if parents is None else broken[parents]
        logits = step(tokens, parents)
        return logits.masked_fill(broken[:, None], math.nan)

    broken = torch.tensor([False, True])
    healthy, empty = search(half_broken, 2, Beam(beam_size=3, max_tokens=4))
    assert empty == []
    assert healthy == search(step, 1, Beam(beam_size=3, max_tokens=4))[0]


def test_no_inputs_give_no_results():
    assert search(step, 0, Beam()) == []


def open_beam(**given) -> OpenBeam:
    return OpenBeam(**{"begin": BEGIN, "end": END, "min_tokens": 0, **given})


def penalty(tokens: int) -> float:
    return ((5 + tokens) / 6) ** 0.6


def written_out(beam: OpenBeam, table: dict[int, tuple[float, ...]]) -> list[Hypothesis]:
    """mPLUG's order in lists, as one would do it by hand."""
    alive, finished = [((), 0.0)], []
    for length in range(1, beam.max_tokens + 1):
        grown = []
        for tokens, total in alive:
            logits = logits_after((BEGIN, *tokens)[-1], table)
            scale = math.log(sum(math.exp(logit) for logit in logits))
            for token, logit in enumerate(logits):
                is_early = token == END and length <= beam.min_tokens
                chance = -1e20 if is_early else logit - scale
                grown.append(((*tokens, token), total + chance))
        alive = sorted(grown, key=lambda each: -each[1])[: beam.beam_size]
        is_done = alive[0][0][-1] == END or length == beam.max_tokens
        finished += [
            Hypothesis(tokens, total / penalty(length))
            for tokens, total in alive
            if is_done or tokens[-1] == END
        ]
        if is_done:
            break
    return sorted(finished, key=lambda h: -h.score)[: beam.beam_size]


AFTER_END = {  # without ties, and with what follows an end
    BEGIN: (0.07, 0.41, 0.33, 0.19),
    A: (0.13, 0.23, 0.21, 0.43),
    B: (0.53, 0.17, 0.16, 0.14),
    C: (0.37, 0.29, 0.18, 0.16),
    END: (0.03, 0.83, 0.09, 0.05),
}


def open_step(tokens: Tensor, parents: Tensor | None) -> Tensor:
    return torch.tensor([logits_after(row[-1], AFTER_END) for row in tokens.tolist()])


@pytest.mark.parametrize("beam_size", [1, 2, 3, 4])
@pytest.mark.parametrize("max_tokens", [1, 2, 4, 6])
@pytest.mark.parametrize("min_tokens", [0, 2])
def test_the_open_search_is_the_one_written_out(beam_size, max_tokens, min_tokens):
    beam = open_beam(beam_size=beam_size, max_tokens=max_tokens, min_tokens=min_tokens)
    [found] = search_open(open_step, 1, beam)
    expected = written_out(beam, AFTER_END)
    assert [h.score for h in found] == pytest.approx([h.score for h in expected], rel=1e-4)
    assert [h.tokens for h in found] == [h.tokens for h in expected]


def test_in_an_open_search_an_ended_hypothesis_goes_on():
    [found] = search_open(open_step, 1, open_beam(beam_size=4, max_tokens=6, min_tokens=1))
    assert any(END in h.tokens[:-1] for h in found)


def test_an_open_search_ends_when_the_best_of_a_step_ends():
    [found] = search_open(open_step, 1, open_beam(beam_size=2, max_tokens=9))
    assert max(len(h.tokens) for h in found) < 9
    assert found[0].tokens[-1] == END


def test_inputs_of_an_open_search_do_not_see_each_other():
    early, late = {A: (0.91, 0.02, 0.04, 0.03)}, {B: (0.01, 0.05, 0.86, 0.08)}
    tables = [AFTER_END, AFTER_END | early, AFTER_END | late]
    beam = open_beam(beam_size=3, max_tokens=6)
    owners: list[int] = []

    def together(tokens: Tensor, parents: Tensor | None) -> Tensor:
        owners[:] = [0, 1, 2] if parents is None else [owners[row] for row in parents.tolist()]
        rows = zip(tokens.tolist(), owners, strict=True)
        return torch.tensor([logits_after(row[-1], tables[owner]) for row, owner in rows])

    found = search_open(together, 3, beam)
    for hypotheses, table in zip(found, tables, strict=True):
        expected = written_out(beam, table)
        assert [h.tokens for h in hypotheses] == [h.tokens for h in expected]


def test_an_open_search_over_nothing_finds_nothing():
    assert search_open(open_step, 0, open_beam()) == []
