"""The small OFA's files: its sizes, its vocabulary, and the two directories it ships as.

Captioner and entailment checker hold the same weights in ModelScope's layout, each with its own
configuration. The vocabulary has whole words only, merged from their letters; any other word is
unknown.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import save_file
from tokenizers import pre_tokenizers

from operators.embedded.kinds import (
    ANIMAL_STATES,
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    KINDS,
    THING_STATES,
)
from operators.models.checkpoint import write_json
from operators.models.ofa.config import OFAConfig
from operators.models.ofa.model import OFAModel
from operators.models.ofa.tokenizer import OFATokenizer

WIDTH = 128
NETWORK = {
    "model_type": "ofa",
    "d_model": WIDTH,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 256,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 256,
    "max_position_embeddings": 64,
    "token_bucket_size": 64,
    "image_bucket_size": 6,
    "dropout": 0.0,
    "resnet_type": "resnet18",
    "resnet_layers": [1, 1, 1],
    "image_codes": False,
}
IMAGE_SIZE = 72  # pixels a side
CAPTION_PROMPT = " what does the image describe?"
HYPOTHESIS_PROMPT = ' does the image describe " {} "?'
ANSWERS = {"no": " no", "yes": " yes", "maybe": " maybe"}
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
OTHER_WORDS = (
    " an the one of to left right above below in on at and with is are there it some no yes maybe"
)


def write_directories(model: OFAModel, tokens: list[str], directory: Path) -> list[Path]:
    """Writes the folders `captioner` and `entailment` of `directory` and returns them."""
    state = model.published_state_dict()
    halves = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in state.items()
    }
    folders = []
    for name, configuration in configurations().items():
        folder = directory / name
        folder.mkdir(parents=True, exist_ok=True)
        save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
        write_tokenizer(tokens, folder)
        write_json(folder / "config.json", {**NETWORK, "vocab_size": len(tokens)})
        write_json(folder / "configuration.json", configuration)
        folders.append(folder)
    labels = {answer.strip(): label for label, answer in ANSWERS.items()}
    write_json(directory / "entailment" / "ans2label.json", labels)
    return folders


def vocabulary() -> list[str]:
    """Lists the tokens: every word said of scenes, and the prompts', a blank before each."""
    texts = [CAPTION_PROMPT, HYPOTHESIS_PROMPT.format("a"), OTHER_WORDS]
    texts += [f" {noun}" for kind in KINDS for noun in (kind.name, kind.plural)]
    texts += [f" {where.english} {where.statement}" for where in BACKGROUNDS]
    texts += [f" {word}" for word, _ in COLOURS + COUNTS]
    texts += [f" {state}" for state in ANIMAL_STATES + THING_STATES]
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    return SPECIALS + sorted(words)


def merges(tokens: list[str]) -> list[str]:
    """The merges that build each token from its letters, one after the other."""
    pairs = []
    for token in tokens:
        pairs += [f"{token[:end]} {token[end]}" for end in range(1, len(token))]
    return list(dict.fromkeys(pairs))


def write_tokenizer(tokens: list[str], folder: Path) -> None:
    """Writes `vocab.json` and `merges.txt`."""
    write_json(folder / "vocab.json", {token: number for number, token in enumerate(tokens)})
    lines = ["#version: 0.2", *merges([token for token in tokens if token not in SPECIALS])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def build_tokenizer(tokens: list[str]) -> OFATokenizer:
    """The tokenizer that the directory will have."""
    with TemporaryDirectory() as folder:
        write_tokenizer(tokens, Path(folder))
        return OFATokenizer(Path(folder), len(tokens))


def network(tokens: int) -> OFAConfig:
    """The sizes, as the net takes them."""
    with TemporaryDirectory() as folder:
        write_json(Path(folder) / "config.json", {**NETWORK, "vocab_size": tokens})
        return OFAConfig.read(Path(folder))


def configurations() -> dict[str, dict[str, object]]:
    """The `configuration.json` of both directories."""
    shared = {
        "type": "ofa",
        "beam_search": {"beam_size": 5, "max_len_b": 16, "min_len": 1, "no_repeat_ngram_size": 3},
        "max_src_length": 60,
        "language": "en",
        "patch_image_size": IMAGE_SIZE,
        "max_image_size": IMAGE_SIZE,
        "imagenet_default_mean_and_std": False,
    }
    captioner = {"task": "image-captioning", "model": {**shared, "gen_type": "generation"}}
    entailment = {
        "task": "visual-entailment",
        "model": {
            **shared,
            "gen_type": "traverse",
            "prompt_type": "prev_output",
            "answer2label": "ans2label.json",
        },
    }
    return {
        name: {"framework": "pytorch", **content, "pipeline": {"type": content["task"]}}
        for name, content in (("captioner", captioner), ("entailment", entailment))
    }
