"""Processes that make batches: in order, nothing twice and nothing lost, also when one of them dies.

Each worker has a pipe and memory of its own, so that one that is killed in the middle of a word leaves nothing locked.
torch's DataLoader is not used: it reports a dead worker by an exception out of a signal handler, which may strike in
the middle of an update of the weights, and does not say what the worker was reading.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from multiprocessing import connection, reduction
from multiprocessing.context import BaseContext
from types import FrameType
from typing import Any, NamedTuple

import torch

from ...errors import BadInput
from .order import Key
from .quarantine import tell
from .samples import Made, Samples, Task, make
from .shared import Mapped, Packed, Room, use

PATIENCE = 300.0  # seconds that one picture may take before its worker counts as hung
LOOK = 5.0  # seconds between two looks at whether the other side still lives
IDLE = -1  # instead of a place: no batch in work
STOP, FIELDS = 0, 3  # the board: whether to stop; then for each worker task, place, nanoseconds of the clock
_ENDS: set[Any] = set()  # our ends of all pipes: a forked worker closes its copies, else nobody would see that we ended


@dataclass
class Measures:
    """What making batches took so far, over all workers."""

    samples: int = 0
    wall: float = 0.0  # seconds in which workers had a batch in work
    cpu: float = 0.0  # seconds of computing in it; the rest is waiting for disks, networks, or a free core

    def add(self, samples: int, wall: float, cpu: float) -> None:
        self.samples += samples
        self.wall += wall
        self.cpu += cpu


class _Ask(NamedTuple):
    """Main process to worker: make this."""

    number: int
    first: int
    columns: tuple[tuple[int, ...], ...]  # of the keys: plain numbers are pickled ten times as fast
    skip: dict[str, str]
    returned: list[int]  # slots that can be written again


class _Reply(NamedTuple):
    """Worker to main process."""

    number: int
    packed: Packed
    cost: tuple[float, float]  # seconds, seconds of computing
    failure: str = ""  # a traceback: a fault of the program, not of a picture
    refusal: str = ""  # the one line of a BadInput that no single picture is to blame for


@dataclass(eq=False)
class _Hand:
    """One worker, seen from the main process."""

    number: int
    process: Any
    pipe: Any
    mapped: Mapped = field(default_factory=Mapped)
    tasks: deque[int] = field(default_factory=deque)  # what it has been told to make and has not sent
    told: int = 0  # nanoseconds of the clock when it was last told something


class Workers:
    """Makes the batches of `tasks` in `count` processes; 0: here. `made()` yields them in order."""

    def __init__(self, dataset: Samples, count: int, prefetch: int = 2, patience: float = PATIENCE) -> None:
        self.dataset, self.count, self.prefetch, self.patience = dataset, count, prefetch, patience
        self.measures = Measures()
        self.deadly: dict[str, str] = {}  # id -> why it is not tried again
        self.deaths = 0  # of workers, with no picture to blame
        self.hands: list[_Hand] = []
        self._context: BaseContext = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._board: Any = None
        self._waiting: dict[int, Task] = {}  # sent out, or to be sent again
        self._again: deque[int] = deque()  # those whose worker died
        self._done: dict[int, Made] = {}

    def made(self, tasks: Iterable[Task]) -> Generator[Made, None, None]:
        coming = enumerate(tasks)
        if self.count:
            self.dataset.ready()
        try:
            if self.count:
                self._board = self._context.RawArray("q", 1 + FIELDS * self.count)  # type: ignore[attr-defined]
                self.hands = [self._start(number) for number in range(self.count)]
            number = 0
            while True:
                while self.hands and len(self._waiting) + len(self._done) < self.count * self.prefetch:
                    following = next(coming, None)
                    if following is None:
                        break
                    self._waiting[following[0]] = following[1]
                    self._send(following[0])
                if number not in self._done and number not in self._waiting:
                    following = next(coming, None)  # no workers, or none left
                    if following is None:
                        return
                    self._waiting[number] = following[1]
                while self.hands and number not in self._done:
                    self._listen()
                yield self._done.pop(number) if number in self._done else self._make(self._waiting.pop(number))
                number += 1
        finally:
            self.close()

    def close(self) -> None:
        """Ends the workers, after the sample that each has in work."""
        if self._board is not None:
            self._board[STOP] = 1
        for hand in self.hands:
            self._forget(hand)  # who waits at the other end of the pipe sees it
        until = time.monotonic() + LOOK
        for hand in self.hands:
            hand.process.join(max(0.0, until - time.monotonic()))
            if hand.process.is_alive():
                hand.process.kill()
                hand.process.join()
        self.hands = []

    # -- the normal way ---------------------------------------------------------------------------------------------

    def _make(self, task: Task) -> Made:
        """Here, in the main process."""
        began, cpu = time.perf_counter(), time.process_time()
        made = make(self.dataset, task, self.deadly, lambda place: None)
        self.measures.add(len(task.keys), time.perf_counter() - began, time.process_time() - cpu)
        return made

    def _start(self, number: int) -> _Hand:
        ours, theirs = self._context.Pipe()
        _ENDS.add(ours)
        self._board[1 + FIELDS * number + 1] = IDLE
        work = _Work(self.dataset, theirs, self._board, number, os.getpid())
        process = self._context.Process(target=work.run, daemon=True, name=f"loader-{number}")  # type: ignore[attr-defined]
        process.start()
        theirs.close()
        return _Hand(number, process, ours)

    def _send(self, number: int) -> None:
        hand = min(self.hands, key=lambda h: len(h.tasks))
        hand.tasks.append(number)
        hand.told = time.monotonic_ns()
        task, returned = self._waiting[number], hand.mapped.take_returned()
        with contextlib.suppress(OSError):  # it has died: its sentinel will say so, and the task is sent again
            hand.pipe.send(_Ask(number, task.first, tuple(zip(*task.keys, strict=True)), self.deadly, returned))

    def _listen(self) -> None:
        """Until something has come, or somebody has died."""
        while self._again and self.hands:
            self._send(self._again.popleft())
        by: dict[Any, _Hand] = {h.pipe: h for h in self.hands} | {h.process.sentinel: h for h in self.hands}
        pause = min(LOOK, self.patience / 4) if self.patience else LOOK
        ready = connection.wait(list(by), pause)
        for hand in {id(by[r]): by[r] for r in ready}.values():
            if hand in self.hands and not self._receive(hand):  # not if the death of another ended them all
                self._mourn(hand)
        if not ready and self.patience:
            for hand in self.hands:
                since = max(self._board[1 + FIELDS * hand.number + 2], hand.told)
                if hand.tasks and (time.monotonic_ns() - since) / 1e9 > self.patience:
                    hand.process.kill()
                    hand.process.join()
                    self._mourn(hand, hung=True)
                    return

    def _receive(self, hand: _Hand) -> bool:
        """Takes all that has come from it; False when it is dead."""
        while True:
            handle = -1
            try:
                if not hand.pipe.poll():
                    return bool(hand.process.is_alive())
                reply = hand.pipe.recv()
                if reply.packed.made:
                    handle = reduction.recv_handle(hand.pipe)
            except (EOFError, OSError):  # also in the middle of a word
                return False
            self._take(hand, reply, handle)

    def _take(self, hand: _Hand, reply: _Reply, handle: int) -> None:
        if handle >= 0:
            hand.mapped.add(reply.packed.slot, handle, reply.packed.made)
        hand.tasks.remove(reply.number)
        task = self._waiting.pop(reply.number)
        if reply.refusal:
            raise BadInput(reply.refusal)
        if reply.failure:
            raise RuntimeError(f"worker {hand.number} failed:\n{reply.failure}")
        batch, bad = hand.mapped.unpack(reply.packed)
        self._done[reply.number] = Made(task, batch, bad)
        self.measures.add(len(task.keys), *reply.cost)

    # -- when one dies ----------------------------------------------------------------------------------------------

    def _mourn(self, hand: _Hand, hung: bool = False) -> None:
        """Says who died of what over which picture, and goes on: with a new worker, or at last with none."""
        hand.process.join(LOOK)
        if hand.process.is_alive():  # it has closed its pipe, and that is all
            hand.process.kill()
            hand.process.join()
        number, place = self._board[1 + FIELDS * hand.number], self._board[1 + FIELDS * hand.number + 1]
        known = self._waiting.get(number) if number in hand.tasks else None
        key = known.keys[place] if known is not None and 0 <= place < len(known.keys) else None
        name = self.dataset.name(key.sample) if key is not None else ""
        code = hand.process.exitcode
        told = f"worker {hand.number} (process {hand.process.pid}) {_cause(code, self.patience * hung)}"
        told += f" while it read {name}" if name else " between two pictures"
        self._again.extend(sorted(hand.tasks))
        hand.tasks.clear()
        self._forget(hand)
        known_killer = name in self.deadly  # it was in a batch that somebody had in work already
        if key is not None and not known_killer and not self._survives(key):
            takes = f"takes longer than {self.patience:g} s to read" if hung else "kills the process that decodes it"
            self.deadly[name] = f"{name} {takes}; mend or remove it"
        elif not known_killer:
            self.deaths += 1
        if known_killer:
            tell(f"{told}, which is left out from now on")
        elif name in self.deadly:
            again = "and so did a second process that read it alone: it is left out, a new worker goes on"
            tell(f"{told}, {again}{_hint(code)}")
        elif self.deaths == 1:
            tell(f"{told}{_hint(code)}; started again")
        else:
            tell(f"{told}{_hint(code)}; the second time: going on without workers, more slowly")
            self.hands.remove(hand)
            self.close()
            return
        self.hands[self.hands.index(hand)] = self._start(hand.number)

    def _survives(self, key: Key) -> bool:
        """Whether a process of its own can read this sample: so the picture is told apart from a lack of memory."""
        process = self._context.Process(target=_try, args=(self.dataset, key), daemon=True)  # type: ignore[attr-defined]
        process.start()
        process.join(self.patience or PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
        return bool(process.exitcode == 0)

    def _forget(self, hand: _Hand) -> None:
        _ENDS.discard(hand.pipe)
        hand.pipe.close()


def _signal(code: int | None) -> str:
    """The name of the signal that an exit code stands for, if it does."""
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name if code is not None and code < 0 else ""
    return f"signal {-(code or 0)}"  # one that Python has no name for


def _cause(code: int | None, hung: float) -> str:
    if hung:
        return f"hung for more than {hung:g} s and was killed"
    return f"was killed by {_signal(code)}" if _signal(code) else f"left with code {code}"


def _hint(code: int | None) -> str:
    """What usually is behind such a death, with the figures that show it."""
    if _signal(code) == "SIGKILL":
        return f"; memory: {_free_memory()}; if that is little, fewer --workers or a smaller batch help"
    if _signal(code) == "SIGBUS":
        return f"; shared memory: {_free_shared()}; a file that was cut off while it was read does this too"
    return ""


def _free_memory() -> str:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found = dict(line.split(":", 1) for line in file)
        return " of ".join(f"{int(found[k].split()[0]) / 1e6:.1f}" for k in ("MemAvailable", "MemTotal")) + " GB free"
    except (OSError, KeyError, ValueError):
        return "not known on this system"


def _free_shared() -> str:
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return "there is no /dev/shm"
    return f"{found.f_bavail * found.f_frsize:,} of {found.f_blocks * found.f_frsize:,} bytes of /dev/shm free"


# ---------------------------------------------------------------- in the worker


@dataclass(frozen=True, eq=False)
class _Work:
    dataset: Samples
    pipe: Any
    board: Any
    number: int
    parent: int

    def run(self) -> None:
        _settle()
        room = Room()
        use(room)
        try:
            while (asked := self._next()) is not None:
                room.begin()
                room.give_back(asked.returned)
                self._answer(asked, room)
        except (EOFError, OSError, _Leave):
            return  # the main process has ended, or wants no more

    def _next(self) -> _Ask | None:
        while not self.pipe.poll(LOOK):
            if os.getppid() != self.parent:
                return None
        asked: _Ask = self.pipe.recv()
        return None if self.board[STOP] else asked

    def _answer(self, asked: _Ask, room: Room) -> None:
        began, cpu = time.perf_counter(), time.process_time()
        task = Task(asked.first, list(map(Key, *asked.columns)) if asked.columns else [])
        failure = refusal = ""
        packed = Packed(b"", -1, [], 0, ())
        try:
            made = make(self.dataset, task, asked.skip, lambda place: self._begin(asked.number, place))
            packed = room.pack((made.batch, made.bad))
            del made
        except BadInput as error:
            refusal = str(error)
        except _Leave:
            return
        except Exception:
            failure = traceback.format_exc()
        self._begin(asked.number, IDLE)
        cost = time.perf_counter() - began, time.process_time() - cpu
        self.pipe.send(_Reply(asked.number, packed, cost, failure, refusal))
        if packed.made:
            handle = room.handle(packed.slot)
            reduction.send_handle(self.pipe, handle, self.parent)  # type: ignore[arg-type]
            os.close(handle)

    def _begin(self, number: int, place: int) -> None:
        if self.board[STOP]:
            raise _Leave
        start = 1 + FIELDS * self.number
        self.board[start], self.board[start + 1], self.board[start + 2] = number, place, time.monotonic_ns()


class _Leave(Exception):
    """The main process wants no more batches."""


def _try(dataset: Samples, key: Key) -> None:
    """In a process of its own: what it says of the sample does not matter, only whether it lives."""
    _settle()
    with contextlib.suppress(Exception):
        dataset.sample(key)


def _settle() -> None:
    """One thread. Signals to the whole group are for the main process: it finishes its step, and needs batches for it.

    A second SIGTERM is obeyed, because that is how Python ends what is left over when it exits.
    """
    torch.set_num_threads(1)
    gc.freeze()  # what came from the main process is not looked through, and so its pages stay shared
    for end in list(_ENDS):
        end.close()
    _ENDS.clear()
    if sys.platform == "win32":
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _first_terminate)


def _first_terminate(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
