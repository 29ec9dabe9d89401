"""The verbs that find images: index, search, duplicates."""

from typing import Annotated, Literal

import typer

from jobs.verbs.options import Json, TableArgument, print_json

app = typer.Typer()

Column = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Which embedder's vectors, where there are several."),
]


@app.command(no_args_is_help=True)
def index(
    table: TableArgument,
    to: Annotated[
        str, typer.Option(metavar="INDEX", help="Local folder of the index; made when absent.")
    ],
    column: Column = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Where that embedder's model is, where the table does not say, for searches to "
            "come; checked against the table's fingerprint.",
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Make a table searchable, or bring its index up to date with what changed since.

    Images with an embedding and no error are indexed, by their vectors, by the words of captions
    and tags, and by labels. Run it again after `enrich`: only rows that changed are written. It
    may be killed at any moment; the index then answers as before. When most of the table has been
    embedded by another model, all is built anew. From 5,000 images on the search by vectors is
    approximate; its recall@10 is measured on images of the index and told. Keys, lists of
    alternatives, bytes, and columns whose name begins with `_` or has a dot are not copied.

    JSON: `{"index","rows","new","changed","removed","left_out": {REASON: rows},"rebuilt",
    "version","column","key","recall_at_10","is_exact","seconds"}`; `rebuilt` is null or the reason.
    """
    from jobs import index as job

    done = job.run(table, to, column=column, model=model)
    if json_:
        print_json(done.to_json())
    else:
        typer.echo("\n".join(job.lines(done)))


@app.command(no_args_is_help=True)
def search(
    index: Annotated[
        str, typer.Argument(metavar="INDEX", help="Folder that `tagline index` wrote.")
    ],
    text: Annotated[
        str | None,
        typer.Argument(metavar="[TEXT]", help="What is looked for, in English or Chinese."),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Find images like this one: a local path, `s3://…` or a public `http(s)://…`.",
        ),
    ] = None,
    words: Annotated[
        bool, typer.Option("--words", help="Only by words of captions and tags, without a model.")
    ] = False,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="SQL",
            help="Only images for which this holds: `entailment = 'yes'`, `caption_score > -1`, "
            "`array_has(tags, 'dog')`.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Images to tell.", min=1)] = 10,
    rerank: Annotated[
        Literal["matcher"] | None,
        typer.Option(help="Have a matcher look at text and image of the first 50 and order them."),
    ] = None,
    matcher: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Its model; that of the table's matcher when left out."),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Where relative uris begin, to rerank: the manifest's folder. The current one "
            "when left out.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Where the embedder's model is now; its fingerprint must fit."
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Find images by a text, an image or words.

    A text is looked for by its embedding and by its words, and the two rankings are fused. The
    query is embedded by the model that embedded the table; an index of another model is refused.
    Nothing found is no error. People are told the cosine of a text's hits, in the order of the
    fused ranks.

    JSON, a line a hit, best first: `{"image_id","uri","score","similarity", …}` and the table's
    other columns. `score` orders the hits: for a text the fused ranks, for an image the cosine,
    for words BM25, reranked the probability of belonging together; `similarity` is the cosine of
    query and image, null for words. A hit that the matcher could not look at comes last, with
    `"error"` and no score, and a query image that cannot be read is `{"image","error"}`; the exit
    code is then 1.
    """
    from jobs import search as job
    from jobs.image_index import Hit

    query = job.Query(
        text=text,
        image=image,
        is_words=words,
        where=where,
        limit=limit,
        model=model,
        is_reranked=rerank is not None,
        matcher=matcher,
        images=images,
    )
    found = job.run(index, query)
    if json_:
        for answer in found.answers:
            print_json(job.to_json(answer))
    for line in () if json_ else job.lines(found):
        typer.echo(line)
    if not all(isinstance(answer, Hit) for answer in found.answers):
        raise typer.Exit(1)


@app.command(no_args_is_help=True)
def duplicates(
    table: TableArgument,
    similarity: Annotated[
        float,
        typer.Option(help="Cosine of embeddings from which on pictures are near.", min=0, max=1),
    ] = 0.95,
    column: Column = None,
    index: Annotated[
        str | None,
        typer.Option(
            metavar="INDEX",
            help="Ask this index, made by `tagline index` of the table as it is now, for the 20 "
            "nearest of each picture, instead of comparing all pairs. Needed above 100,000.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what is found; write nothing.")
    ] = False,
    json_: Json = False,
) -> None:
    """Mark pictures that are in a table more than once, or nearly so.

    Pictures whose files have the same bytes, or whose embeddings are near, are a group, and so is
    what is linked through others. The smallest image_id stands for its group; the column
    `duplicate_of` of the others names it and is null elsewhere. It is written in one commit, only
    to files in which it changes, and nothing else is touched: `enrich` has nothing to do then, and
    keeps the column. Run it again after `enrich`. Without embeddings only the same bytes count.

    JSON: `{"identical": groups,"near": groups,"rows": duplicates,"version"}`; `near` is null in a
    table without embeddings.
    """
    from jobs import duplicates as job

    found = job.run(table, similarity=similarity, column=column, index=index, is_dry=dry_run)
    if json_:
        print_json(found.to_json())
    else:
        typer.echo("\n".join(job.lines(found, is_dry=dry_run)))
