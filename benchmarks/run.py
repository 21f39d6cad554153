"""Every figure we claim, measured together with a peer in one run.

python benchmarks/run.py                          # all rows; peers are installed under .bench/ when first needed
python benchmarks/run.py --only wide greedy-v     # some rows
python benchmarks/run.py --smoke                  # tiny sizes, no peers: agreement with references in NumPy

Each side runs in separate processes, in the order ours, peer, peer, ours. *s* is the wall time of the fastest warm
call, *cpu s* its processor time (less disturbed by a busy machine), *cold s* that of the imports and the first call,
*MB* the peak memory above that after the imports (the data included, on both sides).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from problems import PROBLEMS

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parent / ".bench"
SHARED = {"torch": ["laplace-torch", "bmdal_reg", "batchbald_redux"]}  # packages that share an environment
SLOW = 25.0  # seconds a call; slower sides run in one process, not two
Figures = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """A function of `peers.py`.

    `package`: the package it needs, which has its own or a shared environment; None where our environment suffices.
    `tolerance`: of its estimates, where its stopping rule leaves them further from the optimum than the row allows.
    """

    name: str
    function: str
    package: str | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class Row:
    """A job of `jobs.py` on a problem, its reference and peers, and the targets: seconds, speed ratio, memory."""

    name: str
    title: str
    function: str
    problem: str
    reference: Peer
    tolerance: float
    peers: tuple[Peer, ...] = ()
    seconds: float | None = None
    ratio: float | None = None
    megabytes: float | None = None
    note: str = ""

    @property
    def target(self) -> str:
        """The targets as text."""
        limits = {"{:g} s": self.seconds, "{:g} x": self.ratio, "{:g} MB": self.megabytes}
        return ", ".join(text.format(value) for text, value in limits.items() if value is not None) or "-"

    def reached(self, ours: Figures, peer: Figures | None) -> str:
        """Whether these figures meet the targets."""
        verdicts = [
            self.seconds is None or ours["warm"] <= self.seconds,
            self.megabytes is None or ours["peak"] <= self.megabytes,
            self.ratio is None or (None if peer is None else peer["warm"] >= self.ratio * ours["warm"]),
        ]
        if self.target == "-" or None in verdicts:
            return "-"
        return "yes" if all(verdicts) else "NO"


DENSE = Peer("Newton on differences", "dense_newton")
MINORISE = Peer("minorise-maximise", "minorise_maximise")
ARENA = Peer("arena-rank", "arena_rank", "arena-rank", 2e-4)
BLOCKS = Peer("NumPy, block by block", "blocks_of_all_pairs")
AUTOGRAD = Peer("autograd of logdet (JAX)", "autograd_of_logdet")

ROWS = (
    Row(
        "wide", "linear head, 20,000 pairs x 2,048: MAP + Laplace", "linear", "wide", DENSE, 1e-6,
        (
            Peer("scikit-learn + NumPy Hessian", "scikit_learn_laplace", "scikit-learn"),
            Peer("laplace-torch, full", "laplace_torch", "torch"),
        ), seconds=4,
    ),
    Row(
        "wide-learned", "the same, prior scale learned", "linear_learned", "wide",
        Peer("evidence on a grid", "evidence_grid"), 2e-2,
    ),
    Row(
        "long", "linear head, 1,000,000 pairs x 64: MAP + Laplace", "linear", "long", DENSE, 1e-6,
        (
            Peer("scikit-learn lbfgs", "scikit_learn_lbfgs", "scikit-learn"),
            Peer("scikit-learn newton-cholesky", "scikit_learn_newton_cholesky", "scikit-learn"),
        ), ratio=5, note="the peers compute the MAP only",
    ),
    Row(
        "long-map", "the same, MAP only, from the matrix of differences", "linear_map", "long", DENSE, 1e-6,
        (
            Peer("scikit-learn lbfgs", "scikit_learn_lbfgs", "scikit-learn"),
            Peer("scikit-learn newton-cholesky", "scikit_learn_newton_cholesky", "scikit-learn"),
        ), ratio=5, note="both sides to a mean gradient of 1e-8; the differences are formed beforehand",
    ),
    Row(
        "games", "abilities, 1,000 items, 300,000 games, intervals", "abilities", "games", MINORISE, 1e-6,
        (Peer("choix ilsr", "choix_ilsr", "choix"), ARENA), seconds=1.5,
        note="choix gives no intervals; its list of tuples is made beforehand",
    ),
    Row(
        "many-games", "abilities, 300 items, 2,000,000 games, intervals", "abilities", "many_games", MINORISE, 1e-6,
        (ARENA,), seconds=1.5,
    ),
    Row(
        "published-d", "published D-optimality, 100,000 pairs x 64, best 256", "published_d", "candidates", AUTOGRAD,
        1e-6, (AUTOGRAD,), seconds=0.2,
    ),
    Row(
        "greedy-d", "greedy D, 1,000,000 pairs, d = 64, 100 picks", "greedy_d", "many_candidates",
        Peer("log det of each", "brute_force_d"), 1e-4, (Peer("bmdal_reg MaxDet", "bmdal_max_det", "torch"),),
        seconds=2.5, megabytes=700, note="the peer's rows are whitened and weighted beforehand",
    ),
    Row(
        "greedy-v", "greedy V, 1,000,000 pairs, d = 64, 100 picks", "greedy_v", "many_candidates",
        Peer("trace of each", "brute_force_v"), 1e-4, seconds=5, megabytes=700,
    ),
    Row(
        "batch-bald", "BatchBALD (log determinant), 2,000 pairs, 20 picks", "batch_bald", "small_pool",
        Peer("log det of each", "greedy_information"), 1e-4,
        (Peer("batchbald_redux", "batchbald_redux", "torch", 0.5),), seconds=1,
        note="agreement: difference in information of the batches, nats; peer: 10,000 joint answers of 100 draws",
    ),
    Row(
        "all-pairs", "posterior variance, all 209,704,960 pairs, d = 64, best 256", "all_pairs", "everything",
        BLOCKS, 1e-6, (BLOCKS,), seconds=1, megabytes=300,
    ),
)  # fmt: skip


def environment(package: str) -> str | None:
    """Interpreter of an environment of peers, made when first needed; None where that fails."""
    folder = ENVIRONMENTS / package
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if (folder / "ready").exists():
        return str(python)
    size = " (6 GB)" if package == "torch" else ""
    print(f"installing {package}{size} into {folder}", file=sys.stderr)
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *SHARED.get(package, [package])], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{package} could not be installed: {error}", file=sys.stderr)
        return None
    (folder / "ready").touch()
    return str(python)


def run_child(python: str, module: str, folder: Path, jobs: list[str]) -> dict[str, Figures]:
    """Figures of each FUNCTION:PROBLEM, measured in a new process."""
    command = [python, str(HERE / "child.py"), module, str(folder), *jobs]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"{module} {jobs} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    return {figures["job"]: figures for figures in lines}


def best(runs: Iterable[Figures]) -> Figures:
    """Figures of the fastest of several processes, with the shortest cold time and the largest memory."""
    ordered = sorted(runs, key=lambda figures: figures["warm"])
    return ordered[0] | {
        "cold": min(figures["cold"] for figures in ordered),
        "peak": max(figures["peak"] for figures in ordered),
    }


def agreement(folder: Path, row: Row, peer: Peer) -> tuple[str, bool]:
    """Largest difference of the estimates, with the number of picks in common, and whether they agree."""
    with (
        np.load(folder / f"jobs-{row.function}-{row.problem}.npz") as ours,
        np.load(folder / f"peers-{peer.function}-{row.problem}.npz") as theirs,
    ):
        allowed = peer.tolerance or row.tolerance
        shared = [name for name in ours.files if name in theirs.files and name != "picks"]
        largest = max((float(np.abs(ours[name] - theirs[name]).max()) for name in shared), default=0.0)
        if "picks" not in theirs.files:
            return f"{largest:.0e}", largest <= allowed
        picks = [set(map(tuple, np.sort(side["picks"], axis=1).tolist())) for side in (ours, theirs)]
        same = len(picks[0] & picks[1])
        text = f"{same}/{len(picks[0])} picks, {largest:.0e}"
        return text, same == len(picks[0]) and largest <= allowed


def measure(row: Row, peers: tuple[Peer, ...], folder: Path) -> list[dict[str, str]]:
    """Lines of the table for one row; each side is timed in separate processes, in alternation."""
    sides: dict[Peer | None, tuple[str, str, str]] = {None: (sys.executable, "jobs", f"{row.function}:{row.problem}")}
    missing = []
    for peer in peers:
        python = sys.executable if peer.package is None else environment(peer.package)
        if python is None:
            missing.append(peer)
        else:
            sides[peer] = (python, "peers", f"{peer.function}:{row.problem}")
    runs: dict[Peer | None, list[Figures]] = defaultdict(list)
    for order in (list(sides), list(reversed(sides))):
        for side in order:
            if runs[side] and runs[side][0]["warm"] > SLOW:
                continue
            python, module, job = sides[side]
            runs[side] += run_child(python, module, folder, [job]).values()
    if not runs[None]:
        return [{"job": row.title, "reached": "FAILED"}]
    ours = best(runs[None])
    lines = [
        line(row, ours, peer, best(runs[peer]), *agreement(folder, row, peer)) for peer in peers if runs[peer]
    ] or [line(row, ours, None, None, "-", True)]
    return lines + [{"job": row.title, "peer": f"{peer.name}: not installed"} for peer in missing]


def line(row: Row, ours: Figures, peer: Peer | None, theirs: Figures | None, agree: str, close: bool) -> dict[str, str]:
    """One line of the table, as text by column."""
    notes = [row.note] if row.note else []
    for figures in (ours, theirs or {}):
        notes += [f"{value:.2g} {name.replace('_', ' ')}" for name, value in figures.get("notes", {}).items()]
    return {
        "job": row.title,
        "ours s": f"{ours['warm']:.2f}",
        "cpu s": f"{ours['cpu']:.2f}",
        "cold s": f"{ours['cold']:.1f}",
        "peer": "-" if peer is None else peer.name,
        "peer s": "-" if theirs is None else f"{theirs['warm']:.2f}",
        "peer cpu s": "-" if theirs is None else f"{theirs['cpu']:.2f}",
        "ratio": "-" if theirs is None else f"{theirs['warm'] / ours['warm']:.1f}",
        "ours MB": f"{ours['peak']:.0f}",
        "peer MB": "-" if theirs is None else f"{theirs['peak']:.0f}",
        "agreement": agree if close else f"{agree} (!)",
        "target": row.target,
        "reached": row.reached(ours, theirs),
        "notes": "; ".join(notes),
        "versions": ", ".join(figures["versions"] for figures in (ours, theirs) if figures),
    }


def smoke(rows: list[Row], folder: Path) -> list[dict[str, str]]:
    """Lines for tiny sizes and references, each side in one process: a check of the estimates, not of speed."""
    ours = run_child(sys.executable, "jobs", folder, [f"{row.function}:{row.problem}" for row in rows])
    theirs = run_child(sys.executable, "peers", folder, [f"{row.reference.function}:{row.problem}" for row in rows])
    lines = []
    for row in rows:
        job, peer = ours.get(f"{row.function}:{row.problem}"), theirs.get(f"{row.reference.function}:{row.problem}")
        if job is None or peer is None:
            lines.append({"job": row.title, "agreement": "(!) failed"})
            continue
        cells = line(row, job, row.reference, peer, *agreement(folder, row, row.reference))
        lines.append(cells | {"job": f"{row.name} (smoke)", "target": "-", "reached": "-", "notes": ""})
    return lines


def table(lines: list[dict[str, str]]) -> str:
    """The lines as a Markdown table, with notes and versions below."""
    names = [name for name in lines[0] if name not in ("notes", "versions")]
    widths = {name: max(len(name), *(len(cells.get(name, "")) for cells in lines)) for name in names}
    text = ["| " + " | ".join(name.ljust(widths[name]) for name in names) + " |"]
    text.append("|" + "|".join("-" * (widths[name] + 2) for name in names) + "|")
    text += ["| " + " | ".join(cells.get(n, "").ljust(widths[n]) for n in names) + " |" for cells in lines]
    notes = [f"- {cells['job']}: {cells['notes']}" for cells in lines if cells.get("notes")]
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "default")
    versions = {part for cells in lines for part in cells.get("versions", "").split(", ") if part}
    machine = f"- {os.cpu_count()} cores, threads: {threads}; {', '.join(sorted(versions))}"
    return "\n".join([*text, "", *dict.fromkeys(notes), machine])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes and references; fails on disagreement")
    parser.add_argument("--only", nargs="+", choices=[row.name for row in ROWS], help="only these rows")
    parser.add_argument("--no-peers", action="store_true", help="time our side alone")
    parser.add_argument("--threads", type=int, help="number of BLAS and OpenMP threads (default: their own)")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="folder for table.md and table.csv")
    options = parser.parse_args()
    if options.threads:
        for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(options.threads)
    rows = [row for row in ROWS if not options.only or row.name in options.only]
    lines: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for problem in dict.fromkeys(row.problem for row in rows):
            np.savez(folder / f"{problem}.npz", **PROBLEMS[problem](options.smoke))
            if options.smoke:
                continue
            for row in (row for row in rows if row.problem == problem):
                lines += measure(row, () if options.no_peers else row.peers, folder)
                print(table(lines[-1:]), file=sys.stderr, flush=True)
            (folder / f"{problem}.npz").unlink()
        if options.smoke:
            lines = smoke(rows, folder)
    print(table(lines))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text(table(lines) + "\n")
    with (options.out / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(name for cells in lines for name in cells)))
        writer.writeheader()
        writer.writerows(lines)
    if any("(!)" in cells.get("agreement", "") or cells.get("reached") == "FAILED" for cells in lines):
        sys.exit("estimates disagree, or a job failed: see (!) above")


if __name__ == "__main__":
    main()
