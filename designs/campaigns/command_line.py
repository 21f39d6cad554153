"""The command `tercet-select`: features and labels in, pairs to be asked next out. Light until it has work to do."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

DESCRIPTION = """\
Choose which pairs of items people should compare next.

A Bradley-Terry model with a linear reward on the features is fitted to the labels, the scale of its prior learned from
them; then the pairs are chosen whose answers should tell most about the rewards."""

TEACHING = """\
example:
  tercet-select --features embeddings.npy --labels labels.csv --budget 64 --out next.csv

  Have next.csv answered, add a column outcome, append its columns first, second, outcome to labels.csv, run again.

files:
  features  .npy, .npz, .safetensors or .parquet, one row an item; an array of three axes is [prompts, responses, d]
  labels    .csv, .jsonl or .parquet with the columns (others are ignored)
              first, second  the items: row numbers of the features, counted from 0, or names where --ids gives them
              outcome        1 the first is better, 0 the second, 0.5 a tie, or anything between; or one of the words
                             first, second, tie, skip (a skipped pair is not asked again)
            or a label store, as AnnotationLoop of tercet.designs keeps it
            without labels a random batch is drawn
  ids       .txt with one name a line, or a table (.csv, .jsonl, .parquet) with the column id, one row an item in the
            order of the features, and the column prompt where pairs within or across prompts are wanted
  out       .csv, .jsonl or .parquet: first, second (best first), gain, difference_mean, difference_sd (of the reward
            difference), win_probability (of the first); without --out: csv on the standard output

criteria:
  greedy V (default), greedy D, posterior variance, D-optimal (published), D-optimal (past-aware), random;
  a name that is none lists them all

exit code:
  0 done; 2 bad input: one line on the standard error says what, and nothing is written"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The options of `tercet-select`."""
    new = _Parser(
        "tercet-select",
        description=DESCRIPTION,
        epilog=TEACHING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    new.add_argument("--features", required=True, metavar="FILE", help="one row of numbers an item")
    new.add_argument("--budget", required=True, type=int, metavar="N", help="how many pairs to choose")
    new.add_argument("--labels", metavar="FILE", help="what has been answered so far")
    new.add_argument("--out", metavar="FILE", help="where the pairs go (default: standard output)")
    new.add_argument("--ids", metavar="FILE", help="names of the items, and their prompts")
    new.add_argument("--name", help="which array of an .npz or .safetensors file, which column of a .parquet file")
    new.add_argument(
        "--axes",
        metavar="ORDER",
        help='of features with three axes: "prompts, responses" (default) or "responses, prompts"',
    )
    new.add_argument("--components", type=int, metavar="K", help="project the features on K principal components")
    new.add_argument("--criterion", default="greedy V", metavar="NAME", help="how pairs are judged (see below)")
    new.add_argument(
        "--candidates",
        default="random",
        metavar="WHICH",
        help="pairs to choose from: random (20,000 of all, the default), a number of random ones, all, in-prompt, "
        "cross-prompt, or a table with the columns first and second",
    )
    new.add_argument(
        "--target",
        default="all",
        metavar="WHICH",
        help="pairs that matter: all (default), in-prompt, a table with the columns first and second, or features of "
        "other items",
    )
    new.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="FILE",
        help="pairs not to ask, a table with the columns first and second; may be given again",
    )
    new.add_argument("--key", type=int, default=0, metavar="SEED", help="seed of all random choices (default 0)")
    new.add_argument("--quiet", action="store_true", help="no progress on the standard error")
    return new


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `tercet-select`.

    Parameters
    ----------
    arguments : words of the command line; by default those of the process

    Returns
    -------
    int
        0, or 2 where the input is bad: one line on the standard error says what, and nothing is written.

    Raises
    ------
    SystemExit
        From options that are none (code 2) and from --help (code 0).
    """
    line = parser()
    options = line.parse_args(arguments)

    def say(text: object) -> None:
        print(f"{line.prog}: {' '.join(str(text).split())}", file=sys.stderr, flush=True)

    try:
        from tercet.designs.campaigns.select_job import select_job

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
            select_job(options, (lambda text: None) if options.quiet else say)
    except BrokenPipeError:  # whoever reads the standard output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError, MemoryError) as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        say("interrupted; nothing was written.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
