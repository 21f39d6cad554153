"""Motion-capture recordings, BVH and AMC files, as snapshots of one movement done several times."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from tercet.models._inputs import as_floats
from tercet.models.trajectories.snapshots import Snapshots

CHANNEL = re.compile(r"[XYZ](position|rotation)", re.IGNORECASE)


class Motion(NamedTuple):
    """One recording, in the units of its file.

    Attributes
    ----------
    values : array [frames, channels]
    names : tuple of channel names, such as "Hips Xrotation" (BVH) or "lfemur 1" (AMC)
    times : array [frames], seconds since the first frame that was read
    """

    values: np.ndarray
    names: tuple[str, ...]
    times: np.ndarray


def read_bvh(path: str | Path, frames: slice | None = None) -> Motion:
    """Read a Biovision file: skeleton (joints with their channels), then one line of channel values a frame.

    Written from the format's description and tried on files made up for the tests, not on recordings of a studio.

    Parameters
    ----------
    path : file
    frames : slice of the frames to keep (default all); times then count from the first of them

    Raises
    ------
    ValueError
        Naming file and line, where the file is cut short or is not of this format.

    References
    ----------
    Meredith and Maddock (2001), Motion Capture File Formats Explained, University of Sheffield, CS-01-11.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from tercet.datasets import read_bvh
    >>> text = '''HIERARCHY
    ... ROOT Arm {
    ...   OFFSET 0 0 0
    ...   CHANNELS 2 Xrotation Yrotation
    ...   End Site { OFFSET 0 1 0 }
    ... }
    ... MOTION
    ... Frames: 2
    ... Frame Time: 0.1
    ... 10 20
    ... 11 22'''
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "arm.bvh").write_text(text)
    ...     motion = read_bvh(Path(folder, "arm.bvh"))
    >>> motion.names, motion.values.tolist()
    (('Arm Xrotation', 'Arm Yrotation'), [[10.0, 20.0], [11.0, 22.0]])
    """
    lines = _Lines(path)
    names = _hierarchy(lines)
    count = lines.whole(lines.labelled("Frames:"), "a number of frames")
    interval = lines.numbers([lines.labelled("Frame Time:")])[0]
    if count < 1 or interval <= 0:
        lines.fail(f"a recording needs frames and a positive frame time, got {count} and {interval:g}")
    rows: list[list[float]] = []
    for words in lines:
        if len(rows) == count:
            lines.fail(f"more than the {count} frames that the file announces")
        if len(words) != len(names):
            lines.fail(f"{len(words)} values for {len(names)} channels; is the file cut short?")
        rows.append(lines.numbers(words))
    if len(rows) < count:
        lines.fail(f"the file ends after {len(rows)} of the {count} frames that it announces")
    return _motion(lines, rows, names, interval, frames)


def read_amc(path: str | Path, rate: float = 120.0, frames: slice | None = None) -> Motion:
    r"""Read an Acclaim motion file: for each frame its number, then a line `bone value value ...` for each bone.

    The skeleton (ASF) file is not read, so channels are the bones' values by number, "root 1" to "root 6" and so on,
    in the file's units: degrees where it says :DEGREES. A file cut short after a whole frame, or within its first,
    cannot be told from a complete one. Written from the format's description and tried on files made up for the tests.

    Parameters
    ----------
    path : file
    rate : frames a second; the file does not say
    frames : slice of the frames to keep (default all); times then count from the first of them

    Raises
    ------
    ValueError
        Naming file and line, where the file is cut short or is not of this format.

    References
    ----------
    Lander (1998), Working with Motion Capture File Formats, Game Developer, January.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from tercet.datasets import read_amc
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "arm.amc").write_text(":FULLY-SPECIFIED\n:DEGREES\n1\narm 10 20\n2\narm 11 22\n")
    ...     motion = read_amc(Path(folder, "arm.amc"), rate=100.0)
    >>> motion.names, motion.times.tolist()
    (('arm 1', 'arm 2'), [0.0, 0.01])
    """
    if not 0 < rate < np.inf:
        raise ValueError(f"rate must be positive, in frames a second, got {rate}.")
    lines = _Lines(path)
    names: list[str] = []
    rows: list[list[float]] = []
    for channels, row in _amc_frames(lines):
        names = names or _unique(lines, channels)
        if channels != names:
            lines.fail("the frame that ends here has other bones than the first; is the file cut short?")
        rows.append(row)
    return _motion(lines, rows, names, 1.0 / rate, frames)


def motion_snapshots(
    recordings: Sequence[Motion], times: ArrayLike, channels: Sequence[str] | None = None
) -> Snapshots:
    """Take one particle of each recording at each time, by linear interpolation between its frames.

    Recordings may differ in frame rate and length. Angles are interpolated as they stand: where they jump by a full
    turn, unwrap first (`motion._replace(values=np.unwrap(motion.values, period=360, axis=0))`). The same recordings
    make every snapshot, so particles of different times are related, which models of independent populations ignore.

    Parameters
    ----------
    recordings : sequence of Motion with the same channels, one particle each
    times : increasing array [K], seconds from each recording's first frame
    channels : names of the d channels to keep, in this order (default all)

    Raises
    ------
    ValueError
        Where channels differ or a recording does not reach a time.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.datasets import Motion, motion_snapshots
    >>> swing = Motion(np.array([[0.0], [10.0], [30.0]]), ("arm 1",), np.array([0.0, 1.0, 2.0]))
    >>> lift = Motion(np.array([[0.0], [8.0]]), ("arm 1",), np.array([0.0, 2.0]))
    >>> motion_snapshots([swing, lift], [0.5, 1.5]).particles[1].tolist()
    [[20.0], [6.0]]
    """
    clock = as_floats("times", times, 1).astype(np.float64)
    if not recordings:
        raise ValueError("recordings is empty; give at least one.")
    names = recordings[0].names
    kept = tuple(names if channels is None else channels)
    unknown = [name for name in kept if name not in names]
    if unknown or not kept:
        raise ValueError(f"no channel {unknown} here; the recordings have {list(names)}.")
    paths = np.empty((len(clock), len(recordings), len(kept)))
    for i, recording in enumerate(recordings):
        if recording.names != names:
            raise ValueError(
                f"recordings[{i}] has other channels than the first: {_difference(recording.names, names)}."
            )
        first, last = recording.times[0], recording.times[-1]
        out = clock[(clock < first) | (clock > last * (1 + 1e-9))]
        if out.size:
            raise ValueError(f"recordings[{i}] covers {first:g} to {last:g} s, not t = {out[0]:g}.")
        for j, name in enumerate(kept):
            paths[:, i, j] = np.interp(clock, recording.times, recording.values[:, names.index(name)])
    return Snapshots(list(paths), clock, kept)


class _Lines:
    """The lines of a file that hold something, as words; knows where it is when something is wrong."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.at = Path(path), 0
        self._text = self.path.read_text(encoding="utf-8-sig", errors="replace").rstrip().split("\n")

    def __iter__(self) -> Iterator[list[str]]:
        while self.at < len(self._text):
            self.at += 1
            words = self._text[self.at - 1].replace("{", " { ").replace("}", " } ").split()
            if words:
                yield words

    def fail(self, message: str) -> NoReturn:
        raise ValueError(f"{self.path}, line {self.at}: {message}.")

    def numbers(self, words: Sequence[str]) -> list[float]:
        try:
            values = [float(word) for word in words]
        except ValueError:
            self.fail(f"expected numbers, got {' '.join(words)[:60]!r}")
        if not np.isfinite(values).all():
            self.fail(f"values must be finite, got {' '.join(words)[:60]!r}")
        return values

    def whole(self, word: str, what: str) -> int:
        if not word.isdigit():
            self.fail(f"expected {what}, got {word!r}")
        return int(word)

    def labelled(self, label: str) -> str:
        """Give the one word after this label on the next line."""
        text = " ".join(next(iter(self), []))
        if not text.lower().startswith(label.lower()) or len(text[len(label) :].split()) != 1:
            self.fail(f"expected {label!r} and a number, got {text[:60]!r}")
        return text[len(label) :].strip()


def _hierarchy(lines: _Lines) -> list[str]:
    """Read joints until the line MOTION: names of all channels in the order of the values."""
    if next(iter(lines), None) != ["HIERARCHY"]:
        lines.fail("a BVH file begins with HIERARCHY")
    names: list[str] = []
    joints: list[str] = []  # those whose brace is open
    declared = ""  # the one whose brace comes next
    for words in lines:
        while words:
            word, words = words[0], words[1:]
            inside = bool(joints) and not declared
            if word in ("ROOT", "JOINT", "End") and not declared and (word == "ROOT") == (not joints):
                cut = words.index("{") if "{" in words else len(words)
                declared, words = " ".join(words[:cut]), words[cut:]
                if not declared:
                    lines.fail(f"{word} has no name")
            elif word == "{" and declared:
                joints.append(declared)
                declared = ""
            elif word == "}" and inside:
                joints.pop()
            elif word == "OFFSET" and inside:
                if len(lines.numbers(words[:3])) < 3:
                    lines.fail("OFFSET needs three numbers")
                words = words[3:]
            elif word == "CHANNELS" and inside:
                count = lines.whole("".join(words[:1]), "a number of channels")
                given, words = words[1 : count + 1], words[count + 1 :]
                if len(given) < count or not all(CHANNEL.fullmatch(name) for name in given):
                    lines.fail(f"expected {count} channels such as Xposition or Yrotation, got {' '.join(given)!r}")
                names += [f"{joints[-1]} {name}" for name in given]
            elif word == "MOTION" and not (words or joints or declared):
                return _unique(lines, names)
            else:
                lines.fail(f"{word!r} has no place here")
    lines.fail("the file ends within its skeleton")


def _amc_frames(lines: _Lines) -> Iterator[tuple[list[str], list[float]]]:
    """Give the channels and values of each frame; frame numbers must follow each other."""
    number, channels, row = -1, list[str](), list[float]()
    for words in lines:
        if words[0].startswith(("#", ":")):
            continue
        if len(words) == 1 and words[0].isdigit():
            if number >= 0:
                yield channels, row
                if int(words[0]) != number + 1:
                    lines.fail(f"frame {words[0]} follows frame {number}")
            number, channels, row = int(words[0]), [], []
        elif number < 0:
            lines.fail(f"expected a frame number before {words[0]!r}")
        elif len(words) == 1:
            lines.fail(f"bone {words[0]!r} has no values; is the file cut short?")
        else:
            row += lines.numbers(words[1:])
            channels += [f"{words[0]} {i}" for i in range(1, len(words))]
    if number >= 0:
        yield channels, row


def _unique(lines: _Lines, names: list[str]) -> list[str]:
    if not names:
        lines.fail("no channels up to here")
    if len(set(names)) < len(names):
        lines.fail(f"channel {next(name for name in names if names.count(name) > 1)!r} comes twice")
    return names


def _motion(lines: _Lines, rows: list[list[float]], names: list[str], interval: float, frames: slice | None) -> Motion:
    if not rows:
        lines.fail("no frames up to here")
    kept = np.arange(len(rows))[frames or slice(None)]
    if not len(kept) or np.any(np.diff(kept) < 0):
        raise ValueError(f"frames must keep some of the {len(rows)} of {lines.path}, forward; got {frames}.")
    return Motion(np.array(rows)[kept], tuple(names), (kept - kept[0]) * interval)


def _difference(first: tuple[str, ...], second: tuple[str, ...]) -> str:
    odd = sorted(set(first) ^ set(second))
    return f"{odd[0]!r} is not in both" if odd else "their order differs"
