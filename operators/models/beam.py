"""Beam search over any model that can score a next token, for many inputs at once.

The model is a callable, so OFA and mPLUG share this file and the tests use a ten-line table of
scores. Each input keeps its own beams: its result does not depend on what it is batched with. Two
published orders of taking candidates are kept apart, as they find different sentences:

`search` is fairseq's, which OFA uses: of an input's 2 * beam_size best continuations, those among
the first beam_size that end are finished, and the best that do not end go on; an input is done when
beam_size are finished. Scores are sums of log probabilities, in nats, over the number of tokens
with the end counted.

`search_open` is mPLUG's: a hypothesis that ends is finished and goes on all the same, and an input
is done when the best of a step ends. Scores are sums of log probabilities over a power of the
length (Wu et al. 2016, arXiv:1609.08144, equation 14).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

UNLIKELY = -1e20  # log probability of an end that comes too early; mPLUG's, and not -inf

Step = Callable[[Tensor, Tensor | None], Tensor]
"""Scores the next token of each row; logits (R, V).

Is called with the tokens so far, (R, T) int64, the first being `begin`; and with `parents`, (R,)
int64: the row of the call before that each row goes on from, so that a cache can follow. In the
first call there is one row an input, and no parents. Later, rows of one input are neighbours,
inputs keep their order, and those that are done are left out.
"""


@dataclass(frozen=True)
class Beam:
    """How to search.

    Args:
        beam_size: hypotheses kept, and finished, for each input.
        max_tokens: longest hypothesis, its end not counted.
        min_tokens: shortest.
        no_repeat_ngram: so many tokens in a row never occur twice in a hypothesis; 0 allows all.
        length_penalty: exponent of the length that scores are divided by; above 1 favours long.
        temperature: what logits are divided by.
        begin: token that every row starts with.
        pad: token that is never chosen.
        end: token that finishes a hypothesis.
        unknown: token for what the vocabulary lacks.
        unknown_penalty: taken off the score of an unknown token, in nats.
    """

    beam_size: int = 5
    max_tokens: int = 16
    min_tokens: int = 1
    no_repeat_ngram: int = 0
    length_penalty: float = 1.0
    temperature: float = 1.0
    begin: int = 0
    pad: int = 1
    end: int = 2
    unknown: int = 3
    unknown_penalty: float = 0.0


@dataclass(frozen=True)
class OpenBeam:
    """How to search when hypotheses that end go on.

    Args:
        beam_size: hypotheses followed, and kept, for each input.
        max_tokens: longest hypothesis, its end counted.
        min_tokens: tokens before an end may come.
        length_penalty: exponent of the length that scores are divided by.
        begin: token that every row starts with.
        end: token that finishes a hypothesis.
    """

    beam_size: int = 5
    max_tokens: int = 10
    min_tokens: int = 1
    length_penalty: float = 0.6
    begin: int = 101
    end: int = 102


@dataclass(frozen=True)
class Hypothesis:
    """A finished sentence: its tokens without the begin, and its normalised score.

    Without its end too where `search` found it; `search_open` leaves all ends in.
    """

    tokens: tuple[int, ...]
    score: float


@torch.no_grad()
def search(
    step: Step, inputs: int, beam: Beam, *, device: str | torch.device = "cpu"
) -> list[list[Hypothesis]]:
    """Finds the most probable sentences for each of several inputs.

    Args:
        step: the model.
        inputs: how many.
        beam: how to search; a beam is never wider than the vocabulary less one.
        device: where the step function takes its tokens.

    Returns:
        for each input up to `beam_size` hypotheses, best first; none where no score is finite.
    """
    finished: list[list[Hypothesis]] = [[] for _ in range(inputs)]
    state = _State.start(inputs, beam, device)
    for length in range(beam.max_tokens + 1 if inputs else 0):
        scores = _score(step(state.tokens, state.parents), state.tokens, beam)
        candidates = _best(state, scores, beam)
        for row, hypothesis in _endings(state, candidates, length, beam):
            if len(finished[row]) < candidates.beam_size:
                finished[row].append(hypothesis)
        unfinished = [len(finished[row]) < candidates.beam_size for row in state.inputs]
        if length == beam.max_tokens or not any(unfinished):
            break
        state = _advance(state, candidates, unfinished)
    return [sorted(found, key=lambda hypothesis: -hypothesis.score) for found in finished]


@torch.no_grad()
def search_open(
    step: Step, inputs: int, beam: OpenBeam, *, device: str | torch.device = "cpu"
) -> list[list[Hypothesis]]:
    """Finds the most probable sentences for each of several inputs, in mPLUG's order.

    An end may stand within a hypothesis, for one that ended goes on; and one may have no end: when
    the best of a step ends, all of that step are finished, as all are at the last step.

    Args:
        step: the model.
        inputs: how many.
        beam: how to search.
        device: where the step function takes its tokens.

    Returns:
        for each input the best `beam_size` finished hypotheses, best first; where the model gives
        no finite score, theirs is not finite.
    """
    finished: list[list[Hypothesis]] = [[] for _ in range(inputs)]
    state = _OpenState.start(inputs, beam, device)
    for length in range(1, beam.max_tokens + 1 if inputs else 0):
        scores = torch.log_softmax(step(state.tokens, state.parents).float(), dim=-1)
        scores.masked_fill_(scores.isnan(), -math.inf)
        if length <= beam.min_tokens:
            scores[:, beam.end] = UNLIKELY
        state, normalised = _go_on(state, scores, length, beam)
        is_end = state.tokens[:, -1].view(normalised.shape).eq(beam.end)  # (N, B)
        is_done = is_end[:, 0] | (length == beam.max_tokens)  # (N,)
        is_end |= is_done[:, None]
        for row, hypothesis in _finish(state, normalised, is_end):
            finished[row].append(hypothesis)
        if bool(is_done.all()):
            break
        state = _keep(state, ~is_done)
    ranked = [sorted(found, key=lambda hypothesis: -hypothesis.score) for found in finished]
    return [found[: beam.beam_size] for found in ranked]


@dataclass(frozen=True)
class _State:
    """The beams of N inputs that are not done: B rows each, but one row each at the start.

    Shapes: inputs, N numbers; tokens (N B, T); totals (N, B); is_dead (N, B), beams that have ended
    and only fill the table; parents (N B,) or None.
    """

    inputs: list[int]
    tokens: Tensor
    totals: Tensor
    is_dead: Tensor
    parents: Tensor | None

    @classmethod
    def start(cls, inputs: int, beam: Beam, device: str | torch.device) -> "_State":
        return cls(
            inputs=list(range(inputs)),
            tokens=torch.full((inputs, 1), beam.begin, device=device),
            totals=torch.zeros(inputs, 1, device=device),
            is_dead=torch.zeros(inputs, beam.beam_size, dtype=torch.bool, device=device),
            parents=None,
        )


@dataclass(frozen=True)
class _Candidates:
    """The best continuations of each input, best first.

    Shapes: K is 2 * beam_size where the vocabulary is large enough; totals, tokens, rows and is_end
    are (N, K); rows are those of the state.
    """

    beam_size: int
    totals: Tensor
    tokens: Tensor
    rows: Tensor
    is_end: Tensor


def _score(logits: Tensor, tokens: Tensor, beam: Beam) -> Tensor:
    """Log probabilities of the tokens that may come next, -inf for the others; (R, V).

    NaN in all of a row for which the model gives no number.
    """
    logits = logits.float() if beam.temperature == 1 else logits.float() / beam.temperature
    scores = torch.log_softmax(logits, dim=-1)
    length = tokens.shape[1] - 1
    if length < beam.min_tokens:
        scores[:, beam.end] = -math.inf
    scores[:, beam.pad] = -math.inf
    if beam.unknown_penalty:
        scores[:, beam.unknown] -= beam.unknown_penalty
    if length >= beam.max_tokens:
        ends = scores[:, beam.end].clone()
        scores.fill_(-math.inf)
        scores[:, beam.end] = ends
    if beam.no_repeat_ngram:
        _forbid_repeats(scores, tokens, beam.no_repeat_ngram)
    return scores


def _forbid_repeats(scores: Tensor, tokens: Tensor, size: int) -> None:
    """Rules out each token that would end an n-gram the row has already; `begin` is part of one."""
    starts = tokens.shape[1] - size + 1
    if starts < 1:
        return
    is_repeat = torch.ones(tokens.shape[0], starts, dtype=torch.bool, device=tokens.device)
    for offset in range(size - 1):
        latest = tokens[:, starts + offset, None]
        is_repeat &= tokens[:, offset : starts + offset] == latest
    row, start = is_repeat.nonzero(as_tuple=True)
    scores[row, tokens[row, start + size - 1]] = -math.inf


def _best(state: _State, scores: Tensor, beam: Beam) -> _Candidates:
    """Takes the best of each row, which are few, and of these the best of each input."""
    inputs, rows = state.totals.shape
    vocabulary = scores.shape[1]
    beam_size = min(beam.beam_size, vocabulary - 1)
    values, tokens = scores.topk(min(2 * beam_size, vocabulary))  # (R, k)
    values.masked_fill_(values.isnan(), -math.inf)
    totals = (values.view(inputs, rows, -1) + state.totals[:, :, None]).flatten(1)
    totals, places = totals.topk(min(2 * beam_size, rows * vocabulary - 1))
    tokens = tokens.view(inputs, -1).gather(1, places)
    first_rows = torch.arange(inputs, device=scores.device)[:, None] * rows
    is_end = tokens.eq(beam.end) & totals.ne(-math.inf)
    is_end[:, :beam_size] &= ~state.is_dead[:, :beam_size]
    in_row = values.shape[1]
    return _Candidates(beam_size, totals, tokens, first_rows + places // in_row, is_end)


def _endings(
    state: _State, candidates: _Candidates, length: int, beam: Beam
) -> list[tuple[int, Hypothesis]]:
    """The hypotheses that end now, each with its input, best first within one."""
    ends = candidates.is_end[:, : candidates.beam_size]
    inputs = ends.nonzero()[:, 0].tolist()
    if not inputs:
        return []
    rows = candidates.rows[:, : candidates.beam_size][ends]
    totals = candidates.totals[:, : candidates.beam_size][ends]
    scores = totals / (length + 1) ** beam.length_penalty
    texts = state.tokens[rows, 1:]
    found = zip(inputs, texts.tolist(), scores.tolist(), strict=True)
    return [(state.inputs[i], Hypothesis(tuple(tokens), score)) for i, tokens, score in found]


def _advance(state: _State, candidates: _Candidates, unfinished: list[bool]) -> _State:
    """Goes on with the best candidates that have not ended, of the inputs that are not done."""
    kept = torch.tensor(unfinished, device=candidates.rows.device).nonzero()[:, 0]
    is_end, beam_size = candidates.is_end[kept].clone(), candidates.beam_size
    is_end[:, :beam_size] |= state.is_dead[kept, :beam_size]
    count = is_end.shape[1]
    rank = torch.arange(count, device=kept.device) + is_end * count  # those that ended come last
    ranks, chosen = rank.topk(beam_size, dim=1, largest=False)
    rows = candidates.rows[kept].gather(1, chosen).flatten()
    tokens = candidates.tokens[kept].gather(1, chosen).flatten()
    return _State(
        inputs=[state.inputs[i] for i in kept.tolist()],
        tokens=torch.cat([state.tokens[rows], tokens[:, None]], dim=1),
        totals=candidates.totals[kept].gather(1, chosen),
        is_dead=ranks >= count,
        parents=rows,
    )


@dataclass(frozen=True)
class _OpenState:
    """The beams of N inputs that are not done: B rows each, but one row each at the start.

    Shapes: inputs, N numbers; tokens (N B, T); totals (N, B); parents (N B,) or None.
    """

    inputs: list[int]
    tokens: Tensor
    totals: Tensor
    parents: Tensor | None

    @classmethod
    def start(cls, inputs: int, beam: OpenBeam, device: str | torch.device) -> "_OpenState":
        return cls(
            inputs=list(range(inputs)),
            tokens=torch.full((inputs, 1), beam.begin, device=device),
            totals=torch.zeros(inputs, 1, device=device),
            parents=None,
        )


def _go_on(
    state: _OpenState, scores: Tensor, length: int, beam: OpenBeam
) -> tuple[_OpenState, Tensor]:
    """The best continuations of each input, best first, and their normalised scores (N, B)."""
    inputs, rows = state.totals.shape
    vocabulary = scores.shape[1]
    penalty = ((5.0 + length) / 6.0) ** beam.length_penalty
    totals = (scores.view(inputs, rows, vocabulary) + state.totals[:, :, None]) / penalty
    normalised, places = totals.flatten(1).topk(min(beam.beam_size, rows * vocabulary))
    first_rows = torch.arange(inputs, device=scores.device)[:, None] * rows
    parents = (first_rows + places // vocabulary).flatten()
    tokens = (places % vocabulary).flatten()
    grown = torch.cat([state.tokens[parents], tokens[:, None]], dim=1)
    return _OpenState(state.inputs, grown, normalised * penalty, parents), normalised


def _finish(state: _OpenState, normalised: Tensor, is_end: Tensor) -> list[tuple[int, Hypothesis]]:
    """The hypotheses that are finished now, each with its input, best first within one."""
    inputs = is_end.nonzero()[:, 0].tolist()
    texts = state.tokens[is_end.flatten(), 1:].tolist()
    found = zip(inputs, texts, normalised[is_end].tolist(), strict=True)
    return [(state.inputs[i], Hypothesis(tuple(tokens), score)) for i, tokens, score in found]


def _keep(state: _OpenState, is_kept: Tensor) -> _OpenState:
    """Leaves out the inputs that are done."""
    rows = is_kept.repeat_interleave(state.totals.shape[1])
    return _OpenState(
        inputs=[
            number for number, kept in zip(state.inputs, is_kept.tolist(), strict=True) if kept
        ],
        tokens=state.tokens[rows],
        totals=state.totals[is_kept],
        parents=None if state.parents is None else state.parents[rows],
    )
