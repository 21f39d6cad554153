"""Motion-capture recordings (BVH and AMC files), and snapshots of a movement that was recorded several times."""

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
    times : array [frames], seconds since the first frame kept
    """

    values: np.ndarray
    names: tuple[str, ...]
    times: np.ndarray


def read_bvh(path: str | Path, frames: slice | None = None) -> Motion:
    """Read a Biovision file: skeleton (joints with their channels), then one line of channel values per frame.

    Written from the description of the format and tested on synthetic files only.

    Parameters
    ----------
    path : file
    frames : slice of the frames to keep (default all); times then count from the first of them

    Raises
    ------
    ValueError
        Naming file and line, where the file is truncated or not of this format.

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
    for tokens in lines:
        if len(rows) == count:
            lines.fail(f"more than the {count} frames that the header gives")
        if len(tokens) != len(names):
            lines.fail(f"{len(tokens)} values for {len(names)} channels; is the file truncated?")
        rows.append(lines.numbers(tokens))
    if len(rows) < count:
        lines.fail(f"the file ends after {len(rows)} of the {count} frames that the header gives")
    return _motion(lines, rows, names, interval, frames)


def read_amc(path: str | Path, rate: float = 120.0, frames: slice | None = None) -> Motion:
    r"""Read an Acclaim motion file: for each frame its number, then a line `bone value value ...` for each bone.

    The skeleton (ASF) file is not read, so channels are the bones' values by number, "root 1" to "root 6" and so on,
    in the file's units: degrees where it says :DEGREES. A file that is truncated after a whole frame, or within its
    first, looks complete. Written from the description of the format and tested on synthetic files only.

    Parameters
    ----------
    path : file
    rate : frames a second; the file does not say
    frames : slice of the frames to keep (default all); times then count from the first of them

    Raises
    ------
    ValueError
        Naming file and line, where the file is truncated or not of this format.

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
            lines.fail("the bones of this frame are not those of the first; is the file truncated?")
        rows.append(row)
    return _motion(lines, rows, names, 1.0 / rate, frames)


def motion_snapshots(
    recordings: Sequence[Motion], times: ArrayLike, channels: Sequence[str] | None = None
) -> Snapshots:
    """Snapshots with one particle for each recording, by linear interpolation between its frames.

    Recordings may differ in frame rate and length. Angles are interpolated without unwrapping: where they jump by a
    full turn, unwrap first (`motion._replace(values=np.unwrap(motion.values, period=360, axis=0))`). All snapshots come
    from the same recordings, so that particles of different times are dependent; models of independent populations
    ignore this.

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
    >>> from tercet.datasets import motion_snapshots
    >>> from tercet.datasets.motion import Motion
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
        raise ValueError(f"no channel {unknown}; the recordings have {list(names)}.")
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
    """Reader of the non-empty lines of a file, split into tokens; its errors name file and line."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.at = Path(path), 0
        self._text = self.path.read_text(encoding="utf-8-sig", errors="replace").rstrip().split("\n")

    def __iter__(self) -> Iterator[list[str]]:
        while self.at < len(self._text):
            self.at += 1
            tokens = self._text[self.at - 1].replace("{", " { ").replace("}", " } ").split()
            if tokens:
                yield tokens

    def fail(self, message: str) -> NoReturn:
        raise ValueError(f"{self.path}, line {self.at}: {message}.")

    def numbers(self, tokens: Sequence[str]) -> list[float]:
        try:
            values = [float(token) for token in tokens]
        except ValueError:
            self.fail(f"expected numbers, got {' '.join(tokens)[:60]!r}")
        if not np.isfinite(values).all():
            self.fail(f"values must be finite, got {' '.join(tokens)[:60]!r}")
        return values

    def whole(self, token: str, what: str) -> int:
        if not token.isdigit():
            self.fail(f"expected {what}, got {token!r}")
        return int(token)

    def labelled(self, label: str) -> str:
        """The token after this label on the next line."""
        text = " ".join(next(iter(self), []))
        if not text.lower().startswith(label.lower()) or len(text[len(label) :].split()) != 1:
            self.fail(f"expected {label!r} and a number, got {text[:60]!r}")
        return text[len(label) :].strip()


def _hierarchy(lines: _Lines) -> list[str]:
    """Names of all channels, in the order of the values: read the joints until the line MOTION."""
    if next(iter(lines), None) != ["HIERARCHY"]:
        lines.fail("a BVH file begins with HIERARCHY")
    names: list[str] = []
    joints: list[str] = []  # whose brace is open
    declared = ""  # joint whose brace comes next
    for tokens in lines:
        while tokens:
            token, tokens = tokens[0], tokens[1:]
            inside = bool(joints) and not declared
            if token in ("ROOT", "JOINT", "End") and not declared and (token == "ROOT") == (not joints):
                cut = tokens.index("{") if "{" in tokens else len(tokens)
                declared, tokens = " ".join(tokens[:cut]), tokens[cut:]
                if not declared:
                    lines.fail(f"{token} has no name")
            elif token == "{" and declared:
                joints.append(declared)
                declared = ""
            elif token == "}" and inside:
                joints.pop()
            elif token == "OFFSET" and inside:
                if len(lines.numbers(tokens[:3])) < 3:
                    lines.fail("OFFSET needs three numbers")
                tokens = tokens[3:]
            elif token == "CHANNELS" and inside:
                count = lines.whole("".join(tokens[:1]), "a number of channels")
                given, tokens = tokens[1 : count + 1], tokens[count + 1 :]
                if len(given) < count or not all(CHANNEL.fullmatch(name) for name in given):
                    lines.fail(f"expected {count} channels such as Xposition or Yrotation, got {' '.join(given)!r}")
                names += [f"{joints[-1]} {name}" for name in given]
            elif token == "MOTION" and not (tokens or joints or declared):
                return _unique(lines, names)
            else:
                lines.fail(f"unexpected {token!r}")
    lines.fail("the file ends within its skeleton")


def _amc_frames(lines: _Lines) -> Iterator[tuple[list[str], list[float]]]:
    """Channels and values of each frame; frame numbers must be consecutive."""
    number, channels, row = -1, list[str](), list[float]()
    for tokens in lines:
        if tokens[0].startswith(("#", ":")):
            continue
        if len(tokens) == 1 and tokens[0].isdigit():
            if number >= 0:
                yield channels, row
                if int(tokens[0]) != number + 1:
                    lines.fail(f"frame {tokens[0]} follows frame {number}")
            number, channels, row = int(tokens[0]), [], []
        elif number < 0:
            lines.fail(f"expected a frame number before {tokens[0]!r}")
        elif len(tokens) == 1:
            lines.fail(f"bone {tokens[0]!r} has no values; is the file truncated?")
        else:
            row += lines.numbers(tokens[1:])
            channels += [f"{tokens[0]} {i}" for i in range(1, len(tokens))]
    if number >= 0:
        yield channels, row


def _unique(lines: _Lines, names: list[str]) -> list[str]:
    if not names:
        lines.fail("no channels")
    if len(set(names)) < len(names):
        lines.fail(f"channel {next(name for name in names if names.count(name) > 1)!r} appears twice")
    return names


def _motion(lines: _Lines, rows: list[list[float]], names: list[str], interval: float, frames: slice | None) -> Motion:
    if not rows:
        lines.fail("no frames")
    kept = np.arange(len(rows))[frames or slice(None)]
    if not len(kept) or np.any(np.diff(kept) < 0):
        raise ValueError(f"frames must keep some of the {len(rows)} of {lines.path}, forward; got {frames}.")
    return Motion(np.array(rows)[kept], tuple(names), (kept - kept[0]) * interval)


def _difference(first: tuple[str, ...], second: tuple[str, ...]) -> str:
    odd = sorted(set(first) ^ set(second))
    return f"{odd[0]!r} is not in both" if odd else "their order differs"
