"""OFA (arXiv:2202.03052): one encoder-decoder for captioning and for visual entailment.

Letters: B rows, P cells of the image, T tokens asked, U tokens answered, D width, V vocabulary.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from operators.models.checkpoint import check_strict, load_state_dict
from operators.models.ofa.config import OFAConfig
from operators.models.ofa.decoder import Decoder
from operators.models.ofa.encoder import Encoder, Memory
from operators.models.unfilled import unfilled
from schemas.errors import ModelError

TIED = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
SOURCE_OF_TIED = "encoder.embed_tokens.weight"
RECOMPUTED = (  # integer tables that published files hold and that follow from config.json
    "encoder.token_rp_bucket",
    "encoder.image_rp_bucket",
    "decoder.token_rp_bucket",
    "decoder.image_rp_bucket",
    "decoder.image_position_idx",
)


class OFAModel(nn.Module):
    """The whole net; names are those of the published state dict, less its integer tables."""

    def __init__(self, config: OFAConfig) -> None:
        super().__init__()
        self.config = config
        embed_tokens = nn.Embedding(config.vocab_size, config.d_model, config.pad_token_id)
        self.encoder = Encoder(config, embed_tokens)
        self.decoder = Decoder(config, embed_tokens)
        if not config.exclude_mlp:
            self.mlp_head = nn.Linear(config.d_model, config.mlp_dim)
        if config.temperature_init_value:
            self.temp = nn.Parameter(torch.tensor(float(config.temperature_init_value)))
        self._initialise()

    def forward(self, patch_images: Tensor, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Scores every vocabulary entry as the next token, after each token of the answer.

        Shapes: patch_images (B, 3, S, S), normalised; input_ids (B, T) and decoder_input_ids (B, U)
        int64, padded at the end with 1; returns (B, U, V), logits.
        """
        features = self.encode_image_features(patch_images)
        return self.answer(features, input_ids, decoder_input_ids)

    def encode_image_features(self, pixels: Tensor) -> Tensor:
        """Runs the ResNet alone, so that several prompts about an image can share its result.

        Shapes: pixels (B, 3, S, S); returns (B, 1024, S / 16, S / 16), rounded up.
        """
        features: Tensor = self.encoder.embed_images(pixels)
        return features

    def answer(self, features: Tensor, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Does what `forward` does, from features; repeat their rows for several prompts."""
        memory = self.encode(features, input_ids)
        return self.logits(self.decoder(memory, decoder_input_ids))

    def encode(self, features: Tensor, input_ids: Tensor) -> Memory:
        """Reads images and prompts; shapes as in `answer`."""
        memory: Memory = self.encoder(features, input_ids)
        return memory

    def logits(self, states: Tensor, tokens: list[int] | None = None) -> Tensor:
        """Scores the vocabulary, or some tokens of it.

        Shapes: states (…, D) of the decoder; returns (…, V), or (…, number of `tokens`).
        """
        projection = self.decoder.output_projection
        if tokens is not None:
            return functional.linear(states, projection.weight[tokens])
        scores: Tensor = projection(states)
        return scores

    def published_state_dict(self) -> dict[str, Tensor]:
        """The tensors to write to a file: each tied one once."""
        state = self.state_dict()
        left_out = TIED if self.config.share_decoder_input_output_embed else TIED[:1]
        return {name: tensor for name, tensor in state.items() if name not in left_out}

    def tie(self) -> None:
        """Makes the tied tensors one again, after tensors were replaced."""
        self.decoder.embed_tokens = self.encoder.embed_tokens
        if self.config.share_decoder_input_output_embed:
            self.decoder.output_projection.weight = self.encoder.embed_tokens.weight

    def _initialise(self) -> None:
        """Draws weights to train from, as the published class does."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=self.config.init_std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.encoder.embed_tokens.weight[self.config.pad_token_id].zero_()


def load(directory: Path) -> OFAModel:
    """Builds the net that `config.json` describes, with the directory's weights, in float32.

    Returns:
        in evaluation mode, on the CPU.

    Raises:
        ModelError: config.json or the weights are damaged, or do not fit each other.
    """
    config = OFAConfig.read(directory)
    with unfilled():
        model = OFAModel(config)
    found = load_state_dict(directory)
    tied = TIED if config.share_decoder_input_output_embed else TIED[:1]
    check_strict(model.state_dict(), found, source=directory, optional={*RECOMPUTED, *tied})
    _check_tied(found, tied, directory)
    for name in tied:
        found[name] = found[SOURCE_OF_TIED]
    model.to_empty(device="cpu")
    model.tie()
    model.load_state_dict({name: found[name] for name in model.state_dict()})
    return model.eval()


def _check_tied(found: dict[str, Tensor], tied: tuple[str, ...], directory: Path) -> None:
    for name in tied:
        if name in found and not torch.equal(found[name], found[SOURCE_OF_TIED]):
            raise ModelError(
                f"{directory}: {name} differs from {SOURCE_OF_TIED}, but config.json says that "
                "they are one tensor"
            )
