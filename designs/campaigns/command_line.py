"""The command `tercet-select`: features and labels in, pairs to compare next out. Imports JAX only when it must."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from tercet.designs import campaigns

DESCRIPTION = """\
Choose which pairs of items people should compare next.

A Bradley-Terry model with a reward linear in the features is fitted to the labels, the scale of its prior included;
then the pairs are chosen whose answers are expected to tell most about the rewards."""

EPILOG = """\
example:
  tercet-select --features embeddings.npy --labels labels.csv --budget 64 --out next.csv

  Have the pairs of next.csv compared, write the answers in a column outcome, append the columns first, second, outcome
  to labels.csv, and run the command again.

files:
  features  .npy, .npz, .safetensors or .parquet, one row an item, or an array [prompts, responses, d]
  labels    .csv, .jsonl or .parquet with the columns (others are ignored)
              first, second  the items: row numbers of the features, counted from 0, or names where --ids gives them
              outcome        1 the first is better, 0 the second, 0.5 a tie, or any number between; or one of the words
                             first, second, tie, skip (a skipped pair is not chosen again)
            or a label store (.db, .sqlite, .sqlite3) of AnnotationLoop in tercet.designs
            without labels the pairs are random
  ids       .txt with one name a line, or a table (.csv, .jsonl, .parquet) with the column id, one row an item in the
            order of the features, and the column prompt where pairs within or across prompts are wanted
  out       .csv, .jsonl or .parquet, best pair first, with the columns
              first, second                   the items
              gain                            value of the pair by the criterion, given the pairs before it
              difference_mean, difference_sd  posterior mean and standard deviation of the reward difference
              win_probability                 predicted probability that the first is preferred
            without --out: csv on the standard output

criteria:
  greedy V (default), greedy D, posterior variance, D-optimal (published), D-optimal (past-aware), random;
  an unknown name lists them all

exit code:
  0 done; 2 bad input: one line on the standard error says what is wrong, and nothing is written"""


Job = Callable[[argparse.Namespace, Callable[[str], None]], None]
"""Options and a function that reports progress in."""


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The options of `tercet-select`."""
    new = _Parser(
        "tercet-select",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    new.add_argument("--features", required=True, metavar="FILE", help="one row of numbers an item")
    new.add_argument("--budget", required=True, type=int, metavar="N", help="how many pairs to choose")
    new.add_argument("--labels", metavar="FILE", help="the answers so far")
    new.add_argument("--out", metavar="FILE", help="file to write the pairs to (default: standard output)")
    new.add_argument("--ids", metavar="FILE", help="names of the items, and their prompts")
    new.add_argument("--name", help="array of an .npz or .safetensors file, or column of a .parquet file")
    new.add_argument(
        "--axes",
        metavar="ORDER",
        help='order of the first two of three axes: "prompts, responses" (default) or "responses, prompts"',
    )
    new.add_argument("--components", type=int, metavar="K", help="project the features onto K principal components")
    new.add_argument(
        "--criterion", default="greedy V", metavar="NAME", help="criterion that ranks the pairs (see below)"
    )
    new.add_argument(
        "--candidates",
        default="random",
        metavar="WHICH",
        help="pairs to choose from: random (20,000 of all, the default), a number of random pairs, all, in-prompt, "
        "cross-prompt, or a table with the columns first and second",
    )
    new.add_argument(
        "--target",
        default="all",
        metavar="WHICH",
        help="pairs the rewards will be used for: all (default), in-prompt, a table with the columns first and second, "
        "or features of other items",
    )
    new.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="FILE",
        help="pairs not to choose, a table with the columns first and second; may be repeated",
    )
    new.add_argument("--key", type=int, default=0, metavar="SEED", help="random seed (default 0)")
    new.add_argument("--quiet", action="store_true", help="report no progress on the standard error")
    return new


def main(arguments: Sequence[str] | None = None, job: Job | None = None) -> int:
    """Run `tercet-select`.

    Parameters
    ----------
    arguments : arguments of the command line, by default those of the process
    job : what is done with the options, by default `select_job`

    Returns
    -------
    int
        Exit code: 0, or 2 for bad input, when one line on the standard error says what is wrong and nothing is
        written.

    Raises
    ------
    SystemExit
        From unknown options (code 2) and from --help (code 0).
    """
    command = parser()
    options = command.parse_args(arguments)

    def report(text: object) -> None:
        print(f"{command.prog}: {' '.join(str(text).split())}", file=sys.stderr, flush=True)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *_, **__: report(f"warning: {message}")
            (job or campaigns.select_job)(options, (lambda text: None) if options.quiet else report)
    except BrokenPipeError:  # the reader of the standard output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError, MemoryError) as error:
        report(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        report("interrupted; nothing was written.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
