"""`tagline evaluate`: how good captions, labels and rankings are, by the field's own measures.

tagline evaluate captions --references captions_val2014.json --predictions results.json
tagline evaluate entailment --annotations snli_ve_dev.jsonl --predictions answers.jsonl
tagline evaluate retrieval --annotations valid_texts.jsonl --predictions P.jsonl --direction t2i
tagline evaluate classification --data cifar-10 --model DIR
"""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs import evaluation
from jobs.evaluation import RUNS, TEMPLATES, Source
from jobs.evaluation_report import Report, check_path, write
from schemas.errors import ConfigError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Predictions = Annotated[Path | None, typer.Option(metavar="FILE", help="Answers that exist.")]
Table = Annotated[
    str | None, typer.Option(metavar="TABLE", help="A table that `tagline enrich` wrote.")
]
Column = Annotated[
    str, typer.Option(metavar="NAME", help="The operator that wrote the answers of --table.")
]
Model = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="A model that answers, as in a job's config; or its id."),
]
To = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER",
        help="For the table that --model fills; the same command goes on with what is there.",
    ),
]
Address = Annotated[
    str | None, typer.Option(help="Of a Ray cluster that runs the model; as of `tagline enrich`.")
]
Write = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write all of it, with intervals and what the cards report: `.json` or `.md`.",
        callback=check_path,
    ),
]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="How good captions, labels and rankings are, by the field's own measures.\n\n"
    "Answers come from a file (--predictions), from a table (--table), or from a model that is run "
    "over the images as by `tagline enrich` (--model). Prints the figures with their 95 % "
    "intervals, beside what the cards of the published models report.",
)


@app.command("captions", no_args_is_help=True)
def captions_command(
    references: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="COCO's annotations, Karpathy's dataset_*.json, or Flickr30k's .token or .csv.",
        ),
    ],
    predictions: Predictions = None,
    split: Annotated[
        str | None, typer.Option(help="Of Karpathy's file: train, restval, val or test.")
    ] = None,
    table: Table = None,
    column: Column = "caption",
    model: Model = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Of the images that the model captions.")
    ] = None,
    to: To = RUNS,
    address: Address = None,
    report: Write = None,
    json_: Json = False,
) -> None:
    """Score captions with CIDEr-D, BLEU and ROUGE-L, as pycocoevalcap does.

    --predictions is COCO's results: `[{"image_id", "caption"}]`. JSON: `{"CIDEr", "Bleu_1",
    "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "count"}`; published figures are these times 100.
    """
    source = Source(predictions, table, column, model, images, to, address)
    _show(evaluation.captions(references, source, split=split), report, as_json=json_)


@app.command("entailment", no_args_is_help=True)
def entailment_command(
    annotations: Annotated[
        Path, typer.Option(metavar="FILE", help="snli_ve_{dev,test}.jsonl, of either version.")
    ],
    predictions: Predictions = None,
    table: Table = None,
    column: Column = "entailment",
    model: Model = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="flickr30k-images, for the model.")
    ] = None,
    premise: Annotated[
        bool, typer.Option("--premise", help="Tell the model the caption of the image, too.")
    ] = False,
    to: To = RUNS,
    address: Address = None,
    report: Write = None,
    json_: Json = False,
) -> None:
    """Score labels of SNLI-VE: accuracy, overall and per label.

    --predictions has lines of `{"pairID", "label"}`, the label entailment, neutral or
    contradiction, or yes, maybe or no; the image_id of --table is the pairID. JSON:
    `{"accuracy", "per_label", "confusion"}`; the confusion is by truth, then answer.
    """
    source = Source(predictions, table, column, model, images, to, address)
    _show(evaluation.entailment(annotations, source, premise=premise), report, as_json=json_)


@app.command("retrieval", no_args_is_help=True)
def retrieval_command(
    annotations: Annotated[
        Path, typer.Option(metavar="FILE", help="Chinese-CLIP's {split}_texts.jsonl.")
    ],
    direction: Annotated[
        Literal["t2i", "i2t"], typer.Option(help="Text to image, or image to text.")
    ],
    predictions: Predictions = None,
    table: Table = None,
    column: Column = "embedding",
    model: Model = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="{split}_imgs.tsv, for the model."),
    ] = None,
    to: To = RUNS,
    address: Address = None,
    report: Write = None,
    json_: Json = False,
) -> None:
    """Score rankings with R@1, R@5, R@10 and their mean, as Chinese-CLIP does.

    --predictions has lines of `{"text_id", "image_ids"}` or, for i2t, `{"image_id", "text_ids"}`,
    at least ten each, best first. --table needs --model for the texts. JSON: `{"r1", "r5", "r10",
    "mean_recall"}`, in percent.
    """
    source = Source(predictions, table, column, model, images, to, address)
    _show(evaluation.retrieval(annotations, source, direction=direction), report, as_json=json_)


@app.command("classification", no_args_is_help=True)
def classification_command(
    data: Annotated[
        Path, typer.Option(metavar="FOLDER", help="With label_cn.txt and test/, as ELEVATER's.")
    ],
    predictions: Predictions = None,
    table: Table = None,
    column: Column = "embedding",
    model: Model = None,
    templates: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts, one a line, with {} for the label."),
    ] = None,
    to: To = RUNS,
    address: Address = None,
    report: Write = None,
    json_: Json = False,
) -> None:
    """Score zero-shot classes: how often the nearest label is the right one.

    --predictions has lines of `{"image", "label"}`, the image below test/; --table needs --model
    for the labels. JSON: `{"accuracy", "per_label", "confusion"}`.
    """
    source = Source(predictions, table, column, model, None, to, address)
    prompts = TEMPLATES if templates is None else _read_templates(templates)
    _show(evaluation.classification(data, source, templates=prompts), report, as_json=json_)


def _read_templates(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--templates {path}: cannot be read: {error}") from error
    templates = tuple(line.strip() for line in lines if line.strip())
    odd = [template for template in templates if "{}" not in template]
    if odd or not templates:
        raise ConfigError(f"--templates {path}: {odd[:1] or 'no line'}; {{}} is where a label goes")
    return templates


def _show(found: Report, path: Path | None, *, as_json: bool) -> None:
    if path is not None:
        write(found, path)
    if as_json:
        typer.echo(json.dumps(found.evaluation.answer, ensure_ascii=False))
    else:
        typer.echo(found.to_markdown(), nl=False)


if __name__ == "__main__":
    from jobs.cli import main

    main(["evaluate"])
