"""The segments of a journal: their form, and everything that reads them. Executes nothing that is stored.

A segment is JSON lines: a header, then one line per event with the commands that followed. The last key of a
header is a digest of all else in its segment. Segments that somebody has given up stay where they are; the
headers after them say which are void.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tune_core.control.messages import Event, event_from_dict
from tune_core.encoding import dumps, loads
from tune_core.errors import JournalDamaged, StorageError
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.storage.filesystems import brief, check_name
from tune_core.storage.transfer import digest_of, in_parallel

FORMAT = 1


DIRECTORY = "journal"


#: In each segment with a `SpecRecorded`, and in hardly any other.
_SPEC = b"SpecRecorded"


#: Segments that are read at once.
_AHEAD = 16


_SEGMENT = re.compile(r"(\d{8})\.jsonl")


_DIGEST = re.compile(rb',"digest":"([0-9a-f]{32})"}$')


#: An event, and the commands that followed from it, as text.
Record = tuple[Event, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Segment:
    """One decoded segment.

    Attributes:
        number: Its place in the journal, from 1.
        experiment_id: Which experiment of this name it belongs to.
        owner: Which driver wrote it.
        records: Events in order, each with the commands that followed, as text.
        is_last: Whether its driver closed the journal with it.
        void: Ranges of segments before it that were given up, first and last number of each.
    """

    number: int
    experiment_id: str
    owner: dict[str, Any]
    records: tuple[Record, ...]
    is_last: bool
    void: tuple[tuple[int, int], ...] = ()


def segment_numbers(storage: ExperimentStorage) -> list[int]:
    """Return the numbers of the journal's segments, ascending; [] where there is none."""
    matches = (_SEGMENT.fullmatch(name) for name in storage.list(DIRECTORY))
    return sorted(int(match.group(1)) for match in matches if match)


def read_segment(storage: ExperimentStorage, number: int) -> Segment:
    """Read one segment. Executes nothing that is stored in it.

    Raises:
        JournalDamaged: It is damaged.
        StorageError: It is missing, or was written by a newer prefect-tune.
    """
    return decoded(storage, open_segment(storage, number))


@dataclass(frozen=True, slots=True)
class OpenedSegment:
    """A segment whose digest is right, its events still as lines."""

    number: int
    experiment_id: str
    owner: dict[str, Any]
    is_last: bool
    void: tuple[tuple[int, int], ...]
    lines: bytes


def _read(storage: ExperimentStorage, number: int) -> bytes:
    try:
        return storage.read(segment_name(number))
    except FileNotFoundError as error:
        raise StorageError(f"{storage.absolute(segment_name(number))} does not exist") from error


def open_segment(storage: ExperimentStorage, number: int, data: bytes | None = None) -> OpenedSegment:
    """Check a segment's digest and read its header; `data` is the segment, if it was read already.

    Raises:
        JournalDamaged: It is damaged.
        StorageError: It is missing, or was written by a newer prefect-tune.
    """
    data = _read(storage, number) if data is None else data
    head, _, lines = data.partition(b"\n")
    try:
        header = loads(head)
        if header["format"] > FORMAT:
            name = storage.absolute(segment_name(number))
            message = f"{name} has format {header['format']}, this version reads {FORMAT}"
            raise StorageError(f"{message}: use a newer prefect-tune")
        if _sealed(_DIGEST.sub(b"}", head), lines) != data:
            raise ValueError("its digest is that of other content")
        void = tuple((int(first), int(last)) for first, last in header.get("void", ()))
        return OpenedSegment(number, header["experiment_id"], header["owner"], header["is_last"], void, lines)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(storage, number, brief(error) if data else "it is empty") from error


def decoded(storage: ExperimentStorage, opened: OpenedSegment) -> Segment:
    """Return a segment with its events.

    Raises:
        JournalDamaged: An event cannot be read.
    """
    try:
        records = tuple(_record(loads(line)) for line in opened.lines.splitlines())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(storage, opened.number, brief(error)) from error
    return Segment(opened.number, opened.experiment_id, opened.owner, records, opened.is_last, opened.void)


def damaged(storage: ExperimentStorage, number: int, why: str) -> JournalDamaged:
    """Return the error that a segment is damaged; it says what can be done."""
    return JournalDamaged(
        f"{storage.absolute(segment_name(number))} is damaged: {why}. Put it back from a copy; or, if a power cut "
        "took the end of the journal, Tuner.restore(…, discard_damaged=True) or prefect-tune resume --discard-damaged "
        "goes on without the first damaged segment and all after it: about a second of events each is given up"
    )


def last_segment(storage: ExperimentStorage) -> Segment | None:
    """Return the newest segment, of whichever experiment of this name; None where there is no journal.

    Raises:
        JournalDamaged: It is damaged.
    """
    numbers = segment_numbers(storage)
    return read_segment(storage, numbers[-1]) if numbers else None


def segment_before(storage: ExperimentStorage, number: int) -> Segment | None:
    """Return the newest segment before that one which nobody has given up; None if there is none."""
    void = _void_numbers(open_segment(storage, number).void)
    before = [each for each in segment_numbers(storage) if each < number and each not in void]
    return read_segment(storage, before[-1]) if before else None


def _void_numbers(void: Iterable[tuple[int, int]]) -> set[int]:
    return {number for first, last in void for number in range(first, last + 1)}


def known_void(storage: ExperimentStorage, numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """What the newest header that can be read says was given up."""
    for number in reversed(numbers):
        with contextlib.suppress(JournalDamaged):
            return open_segment(storage, number).void
    return ()


def opened_segments(storage: ExperimentStorage, *, discard_damaged: bool = False) -> Iterator[OpenedSegment]:
    """Yield the segments that count, a few read ahead: a week's are many, and a remote storage takes its time.

    Raises:
        JournalDamaged: One is damaged or missing; with `discard_damaged` that is where the journal ends.
    """
    numbers = segment_numbers(storage)
    void = _void_numbers(known_void(storage, numbers))
    wanted = [number for number in range(1, (numbers or [0])[-1] + 1) if number not in void]
    gap = next((number for number in wanted if number not in numbers), None)
    if gap is not None and not discard_damaged:
        raise damaged(storage, gap, f"it does not exist; the journal has gaps, its segments are {numbers}")
    wanted = [number for number in wanted if gap is None or number < gap]
    for start in range(0, len(wanted), _AHEAD):
        several = wanted[start : start + _AHEAD]
        read = in_parallel(lambda number: _read(storage, number), several)
        for number, data in zip(several, read, strict=True):
            try:
                opened = open_segment(storage, number, data)
            except JournalDamaged:
                if discard_damaged:
                    return
                raise
            yield opened


def experiments(storage: ExperimentStorage, *, discard_damaged: bool = False) -> dict[str, list[bytes]]:
    """Return the experiments of this name by id, each with its segments that hold a spec.

    The one whose driver wrote last comes last: an earlier one that goes on counts as the newest again.

    Args:
        storage: Where they are.
        discard_damaged: Whether the journal is read up to its first damaged segment, instead of refused.

    Raises:
        JournalDamaged: A segment is missing or damaged.
    """
    found: dict[str, list[bytes]] = {}
    for opened in opened_segments(storage, discard_damaged=discard_damaged):
        found[opened.experiment_id] = found.pop(opened.experiment_id, [])
        if _SPEC in opened.lines:
            found[opened.experiment_id].append(opened.lines)
    return found


def experiment_ids(storage: ExperimentStorage) -> list[str]:
    """Return the ids of the experiments of this name in the order in which they began.

    Raises:
        JournalDamaged: A segment is missing or damaged.
    """
    return list(dict.fromkeys(opened.experiment_id for opened in opened_segments(storage)))


def events_of(lines: bytes) -> list[Event]:
    """Return the events of a segment that was read.

    Raises:
        StorageError: It is damaged.
    """
    try:
        return [_record(loads(line))[0] for line in lines.splitlines()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"a segment of the journal is damaged: {error!r}") from error


def read_journal(
    storage: ExperimentStorage, experiment_id: str | None = None, *, discard_damaged: bool = False
) -> Iterator[Record]:
    """Yield the events of an experiment, oldest first; of what is to come, a few segments are held.

    Args:
        storage: Where it is.
        experiment_id: Which one of this name; None: the one that `storage` means.
        discard_damaged: Whether the journal is read up to its first damaged segment, instead of refused;
            the id has to be given then.

    Raises:
        JournalDamaged: A segment is missing or damaged.
    """
    wanted = experiment_id or storage.experiment_id
    if wanted is None and (last := last_segment(storage)) is not None:
        wanted = last.experiment_id
    for segment in read_segments(storage, wanted, discard_damaged=discard_damaged):
        yield from segment.records


def read_segments(
    storage: ExperimentStorage, experiment_id: str | None = None, *, discard_damaged: bool = False
) -> Iterator[Segment]:
    """Yield segments, oldest first, of one experiment or of all of this name; else as `read_journal`."""
    for opened in opened_segments(storage, discard_damaged=discard_damaged):
        if experiment_id in (None, opened.experiment_id):
            yield decoded(storage, opened)


def encode_segment(
    experiment_id: str,
    owner: dict[str, Any],
    lines: bytes | bytearray,
    *,
    is_last: bool,
    void: Sequence[tuple[int, int]] = (),
) -> bytes:
    """Return a segment as it is written: `lines` are its events, `void` the ranges of segments that were given up."""
    header = {
        "format": FORMAT,
        "write_id": uuid.uuid4().hex,
        "experiment_id": experiment_id,
        "owner": owner,
        "is_last": is_last,
    }
    return _sealed(dumps(header | ({"void": [list(pair) for pair in void]} if void else {})), lines)


def _sealed(header: bytes, lines: bytes | bytearray) -> bytes:
    """Return a segment: its header with the digest of all else as the last key, and the lines of its events."""
    body = b"\n" + lines
    digest = digest_of(header + body).encode()
    return header[:-1] + b',"digest":"' + digest + b'"}' + body


def _record(line: dict[str, Any]) -> tuple[Event, tuple[str, ...]]:
    commands = tuple(line.pop("commands", ()))
    # Whoever can write to the storage must not choose what is read or removed elsewhere.
    for dirname in (*([line["dirname"]] if "dirname" in line else ()), *line.get("restarted", {}).values()):
        check_name(dirname, "trial", nested=False)
    return event_from_dict(line), commands


def segment_name(number: int) -> str:
    """Return where a segment is, below the experiment."""
    return f"{DIRECTORY}/{number:08d}.jsonl"
