"""`tessella VERB ...`: parses, calls a verb, prints. No logic of its own, and no torch until a verb runs."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from . import __version__
from .errors import BadInput, TessellaError, readable

app = typer.Typer(
    name="tessella",
    help="One toolkit for the whole life of a Vision Transformer.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
UsageError: Any = typer.BadParameter.__base__  # click's, or the copy of click that newer versions of typer carry
LOOSE = {"ignore_unknown_options": True, "allow_interspersed_args": True}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
Like = Annotated[
    str | None, typer.Option(help="What a bare weights file is: a name of `list --family all`, or of `list`.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 or mps.")]
Workers = Annotated[int | None, typer.Option(help="Processes that load pictures; 0: none.")]
MaxBad = Annotated[float | None, typer.Option(help="Share of unreadable pictures above which it stops; 0.01.")]


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        print(f"tessella {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


@app.command()
def demo(
    folder: Annotated[str, typer.Argument(help="Where pictures, run and model go.")] = "demo",
    only_unpack: Annotated[bool, typer.Option("--only-unpack", help="Write the bundled pictures and stop.")] = False,
) -> None:
    """Train on the bundled pictures, evaluate, predict, and show where everything lies."""
    from .verbs.demo import demo as verb

    verb(folder, only_unpack=only_unpack)


@app.command(context_settings=LOOSE)
def train(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA [MY.TOML] [--train.lr 3e-4 ...]",
            help="A folder, zip, tar, shards, table, known set or hf:owner/name; settings by dotted name.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Architecture; see `tessella list`.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Start from these: a run, a model folder, a weights file, a known name.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="compact (up to 112 px) or scratch; with --weights finetune or probe.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="dino, mae, simmim, inpaint, colorize, rotate; fixmatch; distill: see its page."),
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="With --method distill: the model that it learns from.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="With --add: a finished run that learns more classes.")
    ] = None,
    add: Annotated[str | None, typer.Option(help="With --from: the pictures of new classes.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training pictures.")] = None,
    targets: Annotated[str | None, typer.Option(help="Columns of a table to learn: colour,price,tags.")] = None,
    batch: Annotated[str | None, typer.Option(help="Pictures a step, over all processes; auto: cut to memory.")] = None,
    memory: Annotated[str | None, typer.Option(help="What the run stays below, such as 8GB; planned first.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the picture that the model sees, in pixels.")] = None,
    channels: Annotated[int | None, typer.Option(help="Channels of the pictures, where it is not 3.")] = None,
    resize: Annotated[str | None, typer.Option(help="shortest, squash, letterbox, pad or native.")] = None,
    max_bad: MaxBad = None,
    balance: Annotated[str | None, typer.Option(help="none, classes or root: how often rare classes come.")] = None,
    workers: Workers = None,
    seed: Annotated[int | None, typer.Option(help="Decides everything random.")] = None,
    sinks: Annotated[str | None, typer.Option(help="tensorboard, wandb, trackio: rows go there as well.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run folder inside runs/.")] = None,
    resume: Annotated[str | None, typer.Option(help="A run folder to go on with.")] = None,
    allow_change: Annotated[list[str] | None, typer.Option(help="With --resume: a key that may differ.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only predict memory and time, from real steps.")] = False,
    json: Json = False,
) -> None:
    """Train a classifier on labelled pictures, or a backbone on any. Everything lands in runs/NAME-N/."""
    from .config import parse_value
    from .verbs.train import resume as again
    from .verbs.train import train as verb

    data, files, settings = sort_words(words or [])
    if json and not dry_run:
        raise BadInput("--json is of a dry run; add --dry-run, or read log.jsonl of the run")
    short = {
        "weights": weights,
        "objective.teacher": teacher,
        "epochs": epochs,
        "data.targets": None if targets is None else [name.strip() for name in targets.split(",")],
        "train.batch": batch and parse_value(batch),
        "memory": memory,
        "size": size,
        "model.backbone.channels": channels,
        "preprocess.resize": resize,
        "train.seed": seed,
        "train.sinks": None if sinks is None else [name for name in sinks.replace(" ", "").split(",") if name],
        "data.workers": workers,
        "data.max_bad": max_bad,
        "data.balance": balance,
        "name": name,
    }
    settings |= {key: value for key, value in short.items() if value is not None}
    if teacher is not None and method != "distill":
        raise BadInput("--teacher goes with --method distill; add it, or leave the teacher out")
    if (from_ is None) != (add is None):
        raise BadInput("--from RUN and --add DATA go together: what learned already, and the pictures of new classes")
    if from_ is not None and add is not None:
        from .verbs.continued import going_on

        if data is not None or method is not None or weights is not None:
            raise BadInput("--from RUN brings its own data, weights and method; leave the others out")
        data, settings, method = going_on(from_, add, settings)
    if resume is not None:
        refused: dict[str, Any] = {"a data folder": data, "--model": model, "--recipe": recipe, "--method": method}
        refused |= {"a settings file": files or None}
        if dry_run:
            raise BadInput("--dry-run is of a run that has not begun; leave --resume out")
        for what, value in refused.items():
            if value is not None:
                raise BadInput(f"--resume takes the run as it was, so {what} ({value}) cannot be given; leave it out")
        done = again(resume, settings=settings, allow=tuple(allow_change or ()))
    elif data is None:
        raise BadInput("no data was named; write: tessella train photos/ (one folder per class)")
    elif dry_run:
        from .verbs.dry_run import dry_run as forecast

        forecast(data, model=model, recipe=recipe, method=method, files=tuple(files), settings=settings).tell(json)
        return
    else:
        done = verb(data, model=model, recipe=recipe, method=method, files=tuple(files), settings=settings)
    done.tell()


@app.command(context_settings=LOOSE)
def evaluate(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run folder, model folder, weights file, or a known name.")
    ],
    data: Annotated[str, typer.Argument(help="Labelled pictures: whatever `train` takes.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[--data.label NAME ...]", help="How the data is read, where it differs from training."),
    ] = None,
    like: Like = None,
    size: Annotated[int | None, typer.Option(help="Side of the picture that the model sees, in pixels.")] = None,
    flips: Annotated[bool, typer.Option("--flips", help="The mean over each picture and its mirror image.")] = False,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Keep a temperature in the model's card.")] = False,
    probe: Annotated[str | None, typer.Option(help="knn or linear: the frozen features, judged on any data.")] = None,
    anomaly: Annotated[str | None, typer.Option(metavar="GOOD", help="Which pictures are unlike this class.")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="With --anomaly: whole pictures, not patches.")] = False,
    out: Annotated[str | None, typer.Option(help="Also write all answers to this .csv, .npz or .html.")] = None,
    batch: Annotated[int, typer.Option(help="Pictures at a time.")] = 64,
    max_bad: MaxBad = None,
    workers: Workers = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """How right a model is on labelled pictures; classes are matched by name."""
    from .verbs.asked import Asked
    from .verbs.asked import evaluate as verb
    from .verbs.labelled import Reading

    allowed = {} if max_bad is None else {"max_bad": max_bad}
    second, files, settings = sort_words(words or [])
    if second is not None or files:
        raise BadInput(f"evaluate takes one model and one data set; leave {second or files[0]!r} out")
    reading = Reading(batch=batch, workers=workers, device=device, size=size, flips=flips, **allowed)
    asked = Asked(probe=probe, anomaly=anomaly, whole=whole, calibrate=calibrate, out=out)
    verb(source, data, asked, like=like, reading=reading, settings=settings).tell(json)


@app.command()
def predict(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run folder, model folder, weights file, or a known name.")
    ],
    pictures: Annotated[list[str], typer.Argument(help="Picture files or folders of them.")],
    top: Annotated[int, typer.Option(help="How many classes to name.", min=1)] = 5,
    like: Like = None,
    max_bad: MaxBad = None,
    reconstruct: Annotated[
        bool,
        typer.Option("--reconstruct", help="Paint what is hidden: of a model trained by mae, simmim and the like."),
    ] = False,
    mask: Annotated[str | None, typer.Option(help="With --reconstruct: a picture, white where it is to paint.")] = None,
    out: Annotated[str | None, typer.Option(help="With --reconstruct: the .png to write, or a folder.")] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Names and probabilities for pictures."""
    if reconstruct:
        from .verbs.reconstruct import reconstruct as painted

        if out is None:
            raise BadInput("--reconstruct writes a picture; say where: --out painted.png")
        painted(source, pictures, out, mask=mask, device=device).tell(json)
        return
    if mask is not None or out is not None:
        raise BadInput("--mask and --out go with --reconstruct; add it, or leave them out")
    from .verbs.predict import predict as verb

    found = verb(source, pictures, top=top, like=like, device=device)
    found.tell(json)
    found.check(**({} if max_bad is None else {"max_bad": max_bad}))


@app.command()
def check(
    data: Annotated[str, typer.Argument(help="A folder, an archive, shards, a table, a known set.")],
    model: Annotated[str | None, typer.Option(help="Also near-duplicates and doubtful labels, by this model.")] = None,
    like: Like = None,
    html: Annotated[str | None, typer.Option(help="Also write a page for people, one HTML file.")] = None,
    max_bad: Annotated[float, typer.Option(help="Share of unreadable pictures above which the exit code is 2.")] = 0.01,
    workers: Workers = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Look at every picture: unreadable, odd, twice, leaked, mislabelled, out of balance. Changes nothing."""
    from .verbs.check import CheckConfig, refuse
    from .verbs.check import check as verb

    if html is not None:
        refuse(html)
    found = verb(data, CheckConfig(model=model, like=like, device=device, workers=workers))
    found.tell(json)
    if html is not None:
        found.write(html)
    found.judge(max_bad)


@app.command()
def inspect(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="A weights file, a run or model folder, or a known name.")
    ],
    pictures: Annotated[
        list[str] | None, typer.Argument(help="With --against: pictures for both; else some are made.")
    ] = None,
    like: Like = None,
    against: Annotated[
        str | None, typer.Option(help="timm, transformers or open_clip: pixels, tokens, outputs side by side.")
    ] = None,
    json: Json = False,
) -> None:
    """What a model or weights file is: whose layout, which network, what it wants of a picture, its licence."""
    from .verbs.inspect import inspect as verb

    found = verb(source, pictures or (), like=like, against=against)
    found.tell(json)
    found.judge()


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="A weights file, a run or model folder, or a known name.")
    ],
    out: Annotated[str, typer.Argument(help="The folder to write; it must not be there yet.")],
    to: Annotated[
        str,
        typer.Option(help="Who reads it: tessella, timm, transformers, open_clip, meta, microsoft, big_vision."),
    ] = "tessella",
    like: Like = None,
    adapter: Annotated[str | None, typer.Option(help="A LoRA of PEFT, merged into it first.")] = None,
    base: Annotated[str | None, typer.Option(help="With --to lora: what it went on from; --like is of these.")] = None,
    rank: Annotated[int | None, typer.Option(help="With --to lora: of the adapter; 16 unless given.")] = None,
    push: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Also push it to this place of a hub.")] = None,
    json: Json = False,
) -> None:
    """Write a model as a folder of ours, or as one that another library opens."""
    from .verbs.convert import convert as verb
    from .verbs.convert import extract

    if to == "lora":
        if base is None or adapter is not None or push is not None or json:
            raise BadInput("--to lora takes the difference to --base WEIGHTS; add it, and leave the other options out")
        print(extract(source, out, base, like=like, rank=16 if rank is None else rank))
        return
    if base is not None or rank is not None:
        raise BadInput("--base and --rank are of --to lora; leave them out, or add that")
    verb(source, out, to=to, like=like, adapter=adapter, push=push).tell(json)


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(help="One architecture, or weights, to see all of it.")] = None,
    family: Annotated[str | None, typer.Option(help="Weights of one family, or all: known by name.")] = None,
    for_: Annotated[str | None, typer.Option("--for", help="Pictures: which architecture suits them here.")] = None,
    device: Annotated[str | None, typer.Option(help="With --for: where speed is measured.")] = None,
    max_ms: Annotated[float | None, typer.Option(help="With --for: milliseconds that a picture may take.")] = None,
    json: Json = False,
) -> None:
    """Architectures, and known weights: picture size, parameters, multiply-adds; with --for also speed here, and which
    to take."""
    from .verbs.listing import listing, tell

    if for_ is not None:
        from .verbs.suiting import suiting

        return suiting(for_, name, device or "auto", max_ms).tell(json)
    for option, value in (("--device", device), ("--max-ms", max_ms)):
        if value is not None:
            raise BadInput(f"{option} is about pictures; say which: tessella list --for photos/ {option} {value}")
    tell(listing(name, family), json)


@app.command()
def doctor(json: Json = False) -> None:
    """This machine: versions, device, precision, disk, memory, speed of decoding."""
    from .verbs.doctor import doctor as verb
    from .verbs.doctor import tell

    tell(verb(), json)


def sort_words(words: list[str]) -> tuple[str | None, list[str], dict[str, Any]]:
    """What stands free on the line: the data, settings files, `key=value` and `--dotted.key value`."""
    from .config import typed

    data: str | None = None
    files: list[str] = []
    settings: dict[str, Any] = {}
    left = iter(words)
    for word in left:
        if word.startswith("--"):
            key, equals, text = word[2:].partition("=")
            value = text if equals else next(left, None)
            if value is None or (not equals and value.startswith("--")):
                raise BadInput(f"{word} has no value; write {word} VALUE")
            settings[key.replace("-", "_")] = typed(value)
        elif "=" in word:
            key, _, text = word.partition("=")
            settings[key] = typed(text)
        elif word.endswith((".toml", ".json")):
            files.append(word)
        elif data is None:
            data = word
        else:
            raise BadInput(f"two data folders were named, {data!r} and {word!r}; give one")
    return data, files, settings


def main() -> None:
    """One line and an exit code for whatever the user can mend; a traceback only for our own mistakes."""
    try:
        sys.exit(app(prog_name="tessella", standalone_mode=False))  # what a `typer.Exit` carried, or None
    except (TessellaError, UsageError) as error:
        text = error.format_message() if isinstance(error, UsageError) else str(error)
        if isinstance(error, UsageError):
            verb = error.ctx.command_path if error.ctx is not None else "tessella"
            text = f"{text.rstrip('.')}{'' if text.endswith('?') else ';'} see {verb} --help"
        print(f"tessella: {readable(' '.join(text.split()))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        sys.exit(0)
