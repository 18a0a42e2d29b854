"""The program of a sink's process: rows come as JSON lines and go to TensorBoard, Weights & Biases or trackio.

It is run by its path and imports nothing of ours, so that it starts without torch. `sinks.py` is the other side.
"""

from __future__ import annotations

import json
import netrc
import os
import queue
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO
from urllib.parse import urlsplit

Row = dict[str, Any]
PROJECT = "tessella"
AHEAD = 2000  # rows that may wait while a sink starts or is slow
LAST_WORD = 60.0  # seconds that a sink has to close after the training has gone without a word


class Facts(NamedTuple):
    """What a sink learns of a run before the first row."""

    folder: Path  # of the run
    step: int  # the training goes on from here
    id: str  # the same when a run is resumed
    again: bool  # whether this sink has seen the run before
    config: dict[str, Any]  # dotted key -> value

    @property
    def name(self) -> str:
        return self.folder.name


class Sink(Protocol):
    """Where rows go."""

    retracts: bool  # rows from `Facts.step` on, told by an earlier process, disappear when this one starts

    def start(self, facts: Facts) -> str: ...  # what the person who watches should know, or nothing
    def row(self, step: int, figures: dict[str, float]) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self, done: bool) -> None: ...


class TensorBoard:
    """Event files in RUN/tensorboard. Each row is on the disk when `row` returns; the package's own writer has a thread
    and a queue for that, whose `flush` does not wait for the queue."""

    retracts = True

    def start(self, facts: Facts) -> str:
        sys.modules["torch"] = None  # type: ignore[assignment]  # tensorboardX would load it, for nothing
        try:
            from tensorboardX import event_file_writer, summary
            from tensorboardX.proto import event_pb2
        except ImportError as error:
            raise RuntimeError(f"{error}; pip install 'tessella[tensorboard]'") from None
        folder = facts.folder / "tensorboard"
        folder.mkdir(exist_ok=True)
        suffix = f".{time.time_ns() % 10**9:09d}"  # else two starts within a second would share a file
        self._writer = event_file_writer.EventsWriter(str(folder / "events"), suffix)
        self._kinds, self._summary = event_pb2, summary
        self._config, self._last, self._step = facts.config, dict[str, float](), facts.step
        if facts.again:
            session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(session_log=session)
        text = "\n".join(f"    {key} = {value}" for key, value in facts.config.items())  # indented: it is Markdown
        self._write(summary=summary.text("config", text))
        return ""

    def row(self, step: int, figures: dict[str, float]) -> None:
        self._step = step
        self._last |= figures
        for key, value in figures.items():
            self._write(summary=self._summary.scalar(key, value))

    def note(self, text: str) -> None:
        self._write(summary=self._summary.text("notes", text))

    def close(self, done: bool) -> None:
        metrics = {key: value for key, value in self._last.items() if key.startswith("val/")}
        for part in self._summary.hparams(self._config, metrics):
            self._write(summary=part)
        self._writer.close()

    def _write(self, **what: Any) -> None:
        self._writer.write_event(self._kinds.Event(wall_time=time.time(), step=self._step, **what))
        self._writer.flush()


QUIET: dict[str, Any] = {  # settings of W&B: what it would send beside our rows and settings, it does not gather
    "silent": True,
    "console": "off",
    "init_timeout": 15.0,  # seconds, then it is kept here
    "save_code": False,
    "disable_code": True,
    "disable_git": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


class Wandb:
    """One run of W&B, kept in RUN/wandb, and sent where somebody has logged in."""

    retracts = False  # a step that was told cannot be taken back

    def start(self, facts: Facts) -> str:
        os.environ |= {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
        try:
            import wandb
        except ImportError as error:
            raise RuntimeError(f"{error}; pip install 'tessella[wandb]'") from None
        mode = os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline")
        self._told: list[str] = []

        def begin(mode: Any) -> Any:
            return wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                dir=str(facts.folder),
                id=facts.id,
                name=facts.name,
                resume="allow",
                config=facts.config,
                settings=wandb.Settings(**QUIET, mode=mode),
            )

        later = f"it stays in {facts.folder / 'wandb'}; `wandb sync` sends it"
        try:
            self._run = begin(mode)
        except Exception as error:  # no network, a wrong key: whatever it is, the rows are kept
            if mode == "offline":
                raise
            wandb.teardown()  # else its service says that the run is in use
            self._run = begin("offline")
            return f"{_one_line(error)}; {later}"
        return f"nobody is logged in; {later}" if mode == "offline" and "WANDB_MODE" not in os.environ else ""

    def row(self, step: int, figures: dict[str, float]) -> None:
        self._run.log(figures, step=step)

    def note(self, text: str) -> None:
        self._told.append(text)
        self._run.summary["notes"] = "\n".join(self._told[-20:])

    def close(self, done: bool) -> None:
        self._run.finish(exit_code=0 if done else 1)


def _logged_in() -> bool:
    """Whether W&B has a key, found without asking it: where it has none it would prompt for one."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class Trackio:
    """One run in trackio's own store on this machine (TRACKIO_DIR), or where its own variables say."""

    retracts = False

    def start(self, facts: Facts) -> str:
        os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            import trackio
        except ImportError as error:
            raise RuntimeError(f"{error}; pip install 'tessella[trackio]'") from None
        self._run: Any = trackio.init(
            project=PROJECT,
            name=f"{facts.name}-{facts.id}",  # a run is resumed by its name, and names of folders come again
            resume="allow",
            config=facts.config,
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        return ""

    def row(self, step: int, figures: dict[str, float]) -> None:
        self._run.log(figures, step=step)

    def note(self, text: str) -> None:
        """It has no place for one but alerts, which may be sent to a chat."""

    def close(self, done: bool) -> None:
        self._run.finish()


SINKS: dict[str, Callable[[], Sink]] = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}

# -- each row once ----------------------------------------------------------------------------------------------------


class Mark:
    """How far a sink has been told, in RUN/sinks/NAME.json: steps that are run again after a death are not told twice,
    and a sink that joins later is told the whole log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.again = path.is_file()
        new = {"id": secrets.token_hex(4), "step": -1, "rows": 0}
        held: dict[str, Any] = json.loads(path.read_text()) if self.again else new
        self.id: str = held["id"]
        self.told: tuple[int, int] = (held["step"], held["rows"])  # the newest step, and how many rows it had
        self._seen = (-1, 0)  # the same of the rows that have come

    def forget_from(self, step: int) -> None:
        self.told = min(self.told, (step, 0))

    def is_new(self, step: int) -> bool:
        """Whether a row that comes now has not been told; it counts as told from now on."""
        self._seen = (step, self._seen[1] + 1 if self._seen[0] == step else 1)
        if self._seen <= self.told:
            return False
        self.told = self._seen
        self.write()
        return True

    def write(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"id": self.id, "step": self.told[0], "rows": self.told[1]}) + "\n")
        os.replace(new, self.path)


def figures(row: Row) -> dict[str, float]:
    """Numbers by name. A list of a row holds one number a block: the embedding, the blocks, the head."""
    out: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, list):
            names = ["embed", *(f"block{i:02d}" for i in range(len(value) - 2)), "head"]
            out |= {f"{key}/{name}": v for name, v in zip(names, value, strict=False) if _is_number(v)}
        elif key != "step" and _is_number(value):
            out[key] = value
    return out


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _config(folder: Path) -> dict[str, Any]:
    """The settings of a run by dotted name; lists as text, which is all that some sinks take."""
    path = folder / "run.json"
    plain = json.loads(path.read_text())["run"] if path.is_file() else {}

    def flat(plain: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in plain.items():
            name = f"{prefix}{key}"
            if isinstance(value, dict):
                yield from flat(value, f"{name}.")
            elif key != "type":
                yield name, json.dumps(value) if isinstance(value, list) else value

    return {key: value for key, value in flat(plain, "") if value is not None}


def _earlier(folder: Path, step: int) -> Iterator[Row]:
    """The rows before this step: those of the log when the training started, for it has written none of them since."""
    path = folder / "log.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the training is writing it
        if row["step"] < step:
            yield row


# -- the process ------------------------------------------------------------------------------------------------------


def serve(name: str, sink: Sink, messages: Iterator[Row], say: Callable[[str], None]) -> None:
    """From the first message, which says which run it is, to the last."""
    first = next(messages, None)
    if first is None:
        return
    folder, step = Path(first["folder"]), int(first["step"])
    mark = Mark(folder / "sinks" / f"{name}.json")
    mark.write()  # before the sink begins a run under this id
    if mark.again and sink.retracts:
        mark.forget_from(step)
    told = sink.start(Facts(folder, step, mark.id, mark.again, _config(folder)))
    if told:
        say(told)
    for row in _earlier(folder, step):
        if mark.is_new(row["step"]):
            sink.row(row["step"], figures(row))
    for message in messages:
        match message:
            case {"row": row} if mark.is_new(row["step"]):
                sink.row(row["step"], figures(row))
            case {"note": note}:
                sink.note(note)
            case {"done": done}:  # the end of the pipe may come later: workers of the training hold it as well
                return sink.close(done)
    sink.close(False)  # the training has died


def listen(lines: TextIO) -> Iterator[Row]:
    """Messages, in order. They are read by a thread, which ends this process when nobody is there any more and the sink
    still hangs: nothing else would."""
    waiting: queue.Queue[str | None] = queue.Queue(AHEAD)

    def read() -> None:
        for line in lines:
            waiting.put(line)
        threading.Thread(target=_give_up, daemon=True).start()
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (line := waiting.get()) is not None:
        yield json.loads(line)


def _give_up() -> None:
    time.sleep(LAST_WORD)
    os.killpg(0, signal.SIGKILL)  # this process leads a session of its own


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")[:300]


def main(name: str, sink: Sink) -> None:
    """What the package prints goes nowhere, and what it asks on the terminal finds nobody."""
    lines, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)

    def say(text: str, kind: str = " ") -> None:
        print(kind + " ".join(text.split()), file=answers, flush=True)

    try:
        serve(name, sink, listen(lines), say)
    except BaseException as error:  # of somebody else's package: whatever it is, the training hears one line
        say(_one_line(error), "!")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main(sys.argv[1], SINKS[sys.argv[1]]())
