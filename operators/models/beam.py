"""Beam search over any model that can score a next token, for many inputs at once.

The model is a callable, so OFA and mPLUG share this file and the tests use a ten-line table of
scores. Scores are sums of log probabilities, in nats, over the number of tokens with the end
counted. Each input keeps its own beams: its result does not depend on what it is batched with.

The order in which candidates are taken is that of fairseq's generator, which the published OFA
pipelines use: of an input's 2 * beam_size best continuations, those among the first beam_size that
end are finished, and the best that do not end go on; an input is done when beam_size are finished.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

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
class Hypothesis:
    """A finished sentence: its tokens without begin and end, and its normalised score."""

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
    """Log probabilities of the tokens that may come next, -inf for the others; (R, V)."""
    logits = logits.float() if beam.temperature == 1 else logits.float() / beam.temperature
    scores = torch.log_softmax(logits, dim=-1)
    length = tokens.shape[1] - 1
    if length < beam.min_tokens:
        scores[:, beam.end] = -math.inf
    scores.masked_fill_(scores.isnan(), -math.inf)
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
    rows, vocabulary = state.totals.shape[1], scores.shape[1]
    beam_size = min(beam.beam_size, vocabulary - 1)
    totals = scores.view(len(state.inputs), rows, vocabulary) + state.totals[:, :, None]
    totals, places = totals.flatten(1).topk(min(2 * beam_size, rows * vocabulary - 1))
    first_rows = torch.arange(len(state.inputs), device=scores.device)[:, None] * rows
    tokens = places % vocabulary
    is_end = tokens.eq(beam.end) & totals.ne(-math.inf)
    is_end[:, :beam_size] &= ~state.is_dead[:, :beam_size]
    return _Candidates(beam_size, totals, tokens, first_rows + places // vocabulary, is_end)


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
