"""mPLUG's decoder: writes a caption, one token after the other, looking at the image.

Letters: R rows, M images (R a multiple of M, rows of one image neighbours), N image tokens, T
tokens, D width, V vocabulary.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from operators.models.cpu import linear
from operators.models.mplug.config import MPlugConfig
from operators.models.mplug.layers import ACTIVATIONS, Embeddings, KeysValues, Layer


@dataclass
class Cache:
    """What need not be computed again for the next token.

    Shapes: images, of each layer, keys and values of M images; past, of each layer, those of the
    tokens so far of R rows.
    """

    images: list[KeysValues]
    past: list[KeysValues] | None = None

    def follow(self, parents: Tensor) -> None:
        """Makes each row go on from another; images that no row reads any more are dropped.

        Shapes: parents (R,), rows of the last call, those of one image neighbours and images in
        order.
        """
        if not self.past:
            raise ValueError("nothing was read yet, so there is no row to go on from")
        images, rows = self.images[0][0].shape[0], self.past[0][0].shape[0]
        kept = torch.unique_consecutive(parents // (rows // images))
        if len(kept) < images:
            self.images = [(keys[kept], values[kept]) for keys, values in self.images]
        if not torch.equal(parents, torch.arange(rows, device=parents.device)):
            self.past = [(keys[parents], values[parents]) for keys, values in self.past]


class Decoder(nn.Module):
    """Scores every vocabulary entry as the next token; the matrix for it is the word table."""

    def __init__(self, config: MPlugConfig) -> None:
        super().__init__()
        self.bert = Bert(config)
        self.cls = nn.ModuleDict({"predictions": Predictions(config)})

    def forward(self, image_states: Tensor, ids: Tensor) -> Tensor:
        """Reads whole texts, each token seeing those before it.

        Shapes: image_states (M, N, D); ids (R, T) int64, padded at the end; returns (R, T, V).
        """
        return self.logits(self.read(ids, self.start(image_states)))

    def start(self, image_states: Tensor) -> Cache:
        """Prepares to write about images: all that is ever computed of them. Shapes: (M, N, D)."""
        layers = self.bert.layers()
        return Cache([layer.crossattention.keys_values(image_states) for layer in layers])

    def read(self, ids: Tensor, cache: Cache) -> Tensor:
        """Reads the next tokens of each row and remembers them in the cache.

        Shapes: ids (R, T), T being 1 unless they are a text's first; returns (R, T, D).
        """
        begin = cache.past[0][0].shape[2] if cache.past else 0
        x: Tensor = self.bert.embeddings(ids, begin)
        seen: list[KeysValues] = []
        for number, layer in enumerate(self.bert.layers()):
            keys, values = layer.attention.keys_values(x)
            if cache.past:
                keys = torch.cat([cache.past[number][0], keys], dim=2)
                values = torch.cat([cache.past[number][1], values], dim=2)
            seen.append((keys, values))
            x = layer.attention(x, (keys, values), is_causal=ids.shape[1] > 1)
            x = layer.crossattention(x, cache.images[number])
            x = layer.feed_forward(x)
        cache.past = seen
        return x

    def logits(self, states: Tensor) -> Tensor:
        """Shapes: states (…, D) as `read` returns them; returns (…, V)."""
        words = self.bert.embeddings.word_embeddings.weight
        scores: Tensor = self.cls["predictions"](states, words)
        return scores


class Bert(nn.Module):
    """The stack under the vocabulary's scores."""

    def __init__(self, config: MPlugConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        layers = [Layer(config, sees=True) for _ in range(config.text_decode_layers)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def layers(self) -> list[Layer]:
        """The layers, first to last."""
        return cast(list[Layer], list(cast(nn.ModuleList, self.encoder["layer"])))


class Predictions(nn.Module):
    """From states to a score of each word."""

    def __init__(self, config: MPlugConfig) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, states: Tensor, words: Tensor) -> Tensor:
        """Shapes: states (…, D); words (V, D); returns (…, V)."""
        return linear(self.transform(states), words, self.bias)


class Transform(nn.Module):
    """The last layer before the vocabulary; shapes (…, D) are kept."""

    def __init__(self, config: MPlugConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, states: Tensor) -> Tensor:
        """Shapes: states (…, D), kept."""
        normed: Tensor = self.LayerNorm(self.activation(self.dense(states)))
        return normed
