"""mPLUG's two nets: one writes captions, one tells whether a text and an image belong together.

They hold only what inference uses; names are those of the published state dicts. The published
captioner has a text encoder and a fusion stack, too, and never runs them.

Letters: B images or pairs, S pixels a side, N image tokens, T tokens, D width, V vocabulary, E
width of the contrastive features.

Source: mPLUG, arXiv:2205.12005.
"""

from torch import Tensor, nn, tensor
from torch.nn import functional

from operators.models.mplug.config import MPlugConfig
from operators.models.mplug.decoder import Decoder
from operators.models.mplug.layers import initialise
from operators.models.mplug.text import FusionEncoder, TextEncoder
from operators.models.mplug.vision import VisualEncoder

BRIDGE_EPSILON = (
    1e-12  # of the norm between the image tower and the text stacks, whatever the config
)


class MPlugCaptionNet(nn.Module):
    """Writes captions."""

    def __init__(self, config: MPlugConfig) -> None:
        super().__init__()
        self.config = config
        self.visual_encoder = VisualEncoder(config)
        self.visn_fc, self.visn_layer_norm = _bridge(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.text_decoder = Decoder(config)
        _initialise(self)

    def see(self, pixels: Tensor) -> Tensor:
        """Shapes: pixels (B, 3, S, S), normalised; returns (B, N, D)."""
        return _see(self, pixels)

    def logits(self, image_states: Tensor, ids: Tensor) -> Tensor:
        """Scores every vocabulary entry as the next token, after each token of a text.

        Shapes: image_states (B, N, D); ids (B, T) int64, padded at the end; returns (B, T, V).
        """
        scores: Tensor = self.text_decoder(image_states, ids)
        return scores


class MPlugMatchNet(nn.Module):
    """Tells whether a text and an image belong together, and places each in a shared space.

    Raises:
        ValueError: the config's text is as wide as its image tower; the published code has no such
            matcher.
    """

    def __init__(self, config: MPlugConfig) -> None:
        super().__init__()
        if not config.has_bridge:
            raise ValueError(f"hidden_size and clip_vision_width are both {config.hidden_size}")
        self.config = config
        width = config.hidden_size
        self.visual_encoder = VisualEncoder(config)
        self.visn_fc, self.visn_layer_norm = _bridge(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.text_encoder = TextEncoder(config)
        self.fusion_encoder = FusionEncoder(config)
        self.itm_head = nn.Linear(width, 2)
        self.vision_proj = nn.Linear(width, config.embed_dim)
        self.text_proj = nn.Linear(width, config.embed_dim)
        self.temp = nn.Parameter(tensor(float(config.temp)))
        _initialise(self)

    def see(self, pixels: Tensor) -> Tensor:
        """Shapes: pixels (B, 3, S, S), normalised; returns (B, N, D)."""
        return _see(self, pixels)

    def read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Shapes: ids (B, T) int64 and mask (B, T), 0 for padding; returns (B, T, D)."""
        states: Tensor = self.text_encoder(ids, mask)
        return states

    def match(self, image_states: Tensor, text_states: Tensor, mask: Tensor) -> Tensor:
        """Scores pairs: [they do not belong together, they do].

        Shapes: image_states (B, N, D), or fewer of which each is for as many neighbouring texts;
        text_states (B, T, D); mask (B, T); returns (B, 2), logits.
        """
        fused = self.fusion_encoder(image_states, text_states, mask)  # (B, T, D)
        scores: Tensor = self.itm_head(fused[:, 0])
        return scores

    def image_feature(self, image_states: Tensor) -> Tensor:
        """Shapes: image_states (B, N, D); returns (B, E), of unit length."""
        return functional.normalize(self.vision_proj(image_states[:, 0]), dim=-1)

    def text_feature(self, text_states: Tensor) -> Tensor:
        """Shapes: text_states (B, T, D); returns (B, E), of unit length."""
        return functional.normalize(self.text_proj(text_states[:, 0]), dim=-1)


MPlugNet = MPlugCaptionNet | MPlugMatchNet


def _bridge(config: MPlugConfig) -> tuple[nn.Module, nn.Module]:
    """What narrows image states to the width of the text; nothing where both are as wide."""
    if not config.has_bridge:
        return nn.Identity(), nn.Identity()
    width = config.hidden_size
    return nn.Linear(config.clip_vision_width, width), nn.LayerNorm(width, eps=BRIDGE_EPSILON)


def _see(net: MPlugNet, pixels: Tensor) -> Tensor:
    states: Tensor = net.visual_encoder(pixels)  # (B, N, clip_vision_width)
    if net.config.has_bridge:
        states = net.dropout(net.visn_layer_norm(net.visn_fc(states)))  # (B, N, D)
    return states


def _initialise(net: MPlugNet) -> None:
    """Draws weights to train from, as BERT does; the image tower has drawn its own."""
    for name, part in net.named_children():
        if name != "visual_encoder":
            initialise(part, net.config.initializer_range)
