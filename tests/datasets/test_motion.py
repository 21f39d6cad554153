"""Readers of motion files on synthetic files, complete and malformed, and interpolation against a straight line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercet.datasets.motion import Motion, motion_snapshots, read_amc, read_bvh

BVH = """HIERARCHY
ROOT Hips
{
    OFFSET 0.0 1.5 0.0
    CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
    JOINT Left Leg {
        OFFSET 0.1 -0.5 0
        CHANNELS 3 Zrotation Xrotation Yrotation
        End Site
        { OFFSET 0 -1e0 0 }
    }
    JOINT Head
    {
        OFFSET 0 0.5 0
        CHANNELS 1 Yrotation
        End Site
        {
            OFFSET 0 0.2 0
        }
    }
}
MOTION
Frames: 3
Frame Time: 0.025
0 1 2 3 4 5 6 7 8 9
10 11 12 13 14 15 16 17 18 19
-2.5e-1 21 22 23 24 25 26 27 28 29
"""
AMC = """# made up
:FULLY-SPECIFIED
:DEGREES
7
root 0.5 1 2 3 4 5
arm -7.25
8
root 10 11 12 13 14 15
arm 1e1
"""
VALUES = np.arange(30.0).reshape(3, 10)
VALUES[2, 0] = -0.25


def written(folder: Path, text: str) -> Path:
    path = folder / "made_up.txt"
    path.write_bytes(text.encode())
    return path


STYLES = [str, lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff\n" + text.replace("\n", " \t\n\n")]


@pytest.mark.parametrize("style", STYLES, ids=["plain", "CRLF", "blank lines"])
def test_bvh(tmp_path: Path, style: Any) -> None:
    motion = read_bvh(written(tmp_path, style(BVH)))
    np.testing.assert_array_equal(motion.values, VALUES)
    np.testing.assert_allclose(motion.times, [0, 0.025, 0.05])
    hips = [f"Hips {c}" for c in ("Xposition", "Yposition", "Zposition", "Zrotation", "Xrotation", "Yrotation")]
    leg = [f"Left Leg {c}" for c in ("Zrotation", "Xrotation", "Yrotation")]
    assert motion.names == (*hips, *leg, "Head Yrotation")


@pytest.mark.parametrize("style", STYLES, ids=["plain", "CRLF", "blank lines"])
def test_amc(tmp_path: Path, style: Any) -> None:
    motion = read_amc(written(tmp_path, style(AMC)))
    np.testing.assert_array_equal(motion.values, [[0.5, 1, 2, 3, 4, 5, -7.25], [10, 11, 12, 13, 14, 15, 10]])
    assert motion.names == (*(f"root {i}" for i in range(1, 7)), "arm 1")
    np.testing.assert_allclose(motion.times, [0, 1 / 120])
    np.testing.assert_allclose(read_amc(written(tmp_path, style(AMC)), rate=50.0).times, [0, 0.02])


def test_frames_are_kept_and_timed_from_the_first(tmp_path: Path) -> None:
    path = written(tmp_path, BVH)
    for frames, rows in ((slice(1, None), [1, 2]), (slice(0, 3, 2), [0, 2]), (slice(-1, None), [2])):
        motion = read_bvh(path, frames)
        np.testing.assert_array_equal(motion.values, VALUES[rows])
        np.testing.assert_allclose(motion.times, 0.025 * (np.array(rows) - rows[0]))
    for frames in (slice(3, None), slice(None, None, -1)):
        with pytest.raises(ValueError, match=r"frames must keep some of the 3 of .*made_up\.txt, forward"):
            read_bvh(path, frames)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("HIERARCHY\n", "", "line 1: a BVH file begins with HIERARCHY"),
        ("ROOT Hips", "ROOT", "line 2: ROOT has no name"),
        ("ROOT Hips", "JOINT Hips", "line 2: unexpected 'JOINT'"),
        ("OFFSET 0.0 1.5 0.0", "OFFSET 0.0 1.5", "line 4: OFFSET needs three numbers"),
        ("OFFSET 0.0 1.5 0.0", "OFFSET 0 1.5 up", "line 4: expected numbers, got '0 1.5 up'"),
        ("CHANNELS 6", "CHANNELS six", "line 5: expected a number of channels, got 'six'"),
        ("CHANNELS 6", "CHANNELS 7", "line 5: expected 7 channels"),
        ("Xposition", "Xscale", "line 5: expected 6 channels such as Xposition"),
        ("Left Leg", "Hips", "line 22: channel 'Hips Zrotation' appears twice"),
        ("\n}\nMOTION", "\nMOTION", "line 21: unexpected 'MOTION'"),
        ("MOTION\n", "", "line 22: unexpected 'Frames:'"),
        ("Frames: 3", "Frames: many", "line 23: expected a number of frames"),
        ("Frames: 3", "Frames: 0", "line 24: a recording needs frames"),
        ("Frame Time: 0.025", "Frame Time: 0", "line 24: a recording needs frames and a positive frame time"),
        ("Frame Time: 0.025\n", "", "line 24: expected 'Frame Time:' and a number, got '0 1 2"),
        ("Frames: 3", "Frames: 4", "line 27: the file ends after 3 of the 4 frames"),
        ("Frames: 3", "Frames: 2", "line 27: more than the 2 frames"),
        ("18 19", "18", "line 26: 9 values for 10 channels"),
        ("18 19", "18 nan", "line 26: values must be finite"),
        ("18 19", "18 l9", "line 26: expected numbers"),
    ],
)
def test_malformed_bvh_is_told_by_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in BVH
    with pytest.raises(ValueError, match=r"made_up\.txt, " + message):
        read_bvh(written(tmp_path, BVH.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("7\nroot", "root", "line 4: expected a frame number before 'root'"),
        ("8\n", "9\n", "line 7: frame 9 follows frame 7"),
        ("8\n", "arm 5\n8\n", "line 8: channel 'arm 1' appears twice"),
        ("arm 1e1\n", "", "line 8: the bones of this frame are not those of the first"),
        ("arm 1e1", "arm", "line 9: bone 'arm' has no values"),
        ("arm 1e1", "arm 1 2", "line 9: the bones of this frame are not those of the first"),
        ("arm 1e1", "leg 1", "line 9: the bones of this frame are not those of the first"),
        ("arm -7.25\n", "", "line 8: the bones of this frame are not those of the first"),
        ("10 11 12", "10 1l 12", "line 8: expected numbers"),
        ("10 11 12", "10 inf 12", "line 8: values must be finite"),
        ("root 0.5 1 2 3 4 5\narm -7.25\n", "", "line 5: no channels"),
    ],
)
def test_malformed_amc_is_told_by_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in AMC
    with pytest.raises(ValueError, match=r"made_up\.txt, " + message):
        read_amc(written(tmp_path, AMC.replace(old, new, 1)))


def test_every_cut_that_can_be_told_is(tmp_path: Path, rng: np.random.Generator) -> None:
    """BVH up to its last digit; AMC within a frame after the first, where a word is missing."""
    last_frame = range(AMC.index("8\nroot") + 1, AMC.index("arm 1e1") + 5)
    for read, text, cuts in ((read_bvh, BVH, range(len(BVH) - 2)), (read_amc, AMC, last_frame)):
        for end in rng.choice(cuts, size=min(len(cuts), 60), replace=False):
            with pytest.raises(ValueError, match=r"made_up\.txt, line \d+: "):
                read(written(tmp_path, text[:end]))


def test_missing_files_and_rates_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_bvh(tmp_path / "nowhere.bvh")
    with pytest.raises(ValueError, match="rate must be positive"):
        read_amc(written(tmp_path, AMC), rate=0.0)
    with pytest.raises(ValueError, match="line 2: no frames"):
        read_amc(written(tmp_path, ":DEGREES\n# nothing\n"))


def recording(rng: np.random.Generator, slope: np.ndarray, frames: int) -> Motion:
    """Channels that are straight lines in time, at uneven frames up to 2 s: interpolation is exact."""
    times = np.r_[0.0, np.sort(rng.uniform(0, 2, size=frames)), 2.0]
    return Motion(times[:, None] * slope, tuple(f"c{i}" for i in range(len(slope))), times)


def test_each_recording_gives_one_particle_a_time(rng: np.random.Generator) -> None:
    slopes = rng.normal(size=(4, 3))
    recordings = [recording(rng, slope, n) for slope, n in zip(slopes, (3, 10, 0, 50), strict=True)]
    times = np.array([0.0, 0.3, 1.9, 2.0])
    made = motion_snapshots(recordings, times)
    assert made.names == ("c0", "c1", "c2")
    for t, cloud in zip(times, made.particles, strict=True):
        np.testing.assert_allclose(cloud, slopes * t, atol=1e-12)
    some = motion_snapshots(recordings, times, channels=["c2", "c0"])
    assert some.names == ("c2", "c0")
    np.testing.assert_allclose(some.particles[1], slopes[:, [2, 0]] * 0.3, atol=1e-12)


def test_impossible_snapshots_are_refused(rng: np.random.Generator) -> None:
    one, other = recording(rng, np.ones(2), 3), recording(rng, np.ones(3), 3)
    turned = one._replace(names=one.names[::-1])
    for recordings, times, channels, message in (
        ([], [0.0], None, "recordings is empty"),
        ([one, other], [0.0], None, r"recordings\[1\] has other channels than the first: 'c2' is not in both"),
        ([one, turned], [0.0], None, r"recordings\[1\] .*their order differs"),
        ([one], [0.0, 2.1], None, r"recordings\[0\] covers 0 to 2 s, not t = 2\.1"),
        ([one], [-0.1], None, r"recordings\[0\] covers 0 to 2 s"),
        ([one], [1.0, 0.5], None, "times must increase"),
        ([one], [1.0], ["c5"], r"no channel \['c5'\]"),
        ([one], [1.0], [], r"no channel \[\]"),
    ):
        with pytest.raises(ValueError, match=message):
            motion_snapshots(recordings, times, channels)
