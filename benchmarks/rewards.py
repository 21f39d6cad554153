"""Reward heads on large data: embeddings on disk, NUTS in whitened coordinates, networks compared with linear heads.

python benchmarks/rewards.py                       # part of make bench; --only disk nuts networks, --size, --smoke

disk: write 10 GB of embeddings [prompts, 10, 2048] to --folder (a temporary one by default), fit a linear head to one
answer a prompt and score every response; memory is the peak of anonymous memory above that after the imports (pages of
the mapped file do not count: the system may drop them). nuts: a linear head on 20,000 pairs of 1,024 features; smallest
effective sample size per second of everything (compilation, on our side also the Laplace fit), compared with the model
as a user of NumPyro would write it. networks: bundled words, tested on words that were never compared, with defaults.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

PARTS = ("disk", "nuts", "networks")
RESPONSES, WIDTH = 10, 2048


class PeakMemory:
    """Peak of the anonymous memory of this process [MB] while a block runs, above that before it."""

    def __enter__(self) -> PeakMemory:
        self.before, self.peak, self.running = self._current(), 0.0, True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.thread.join()

    def _watch(self) -> None:
        while self.running:
            self.peak = max(self.peak, self._current() - self.before)
            time.sleep(0.02)

    @staticmethod
    def _current() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024.0


def write_embeddings(path: Path, prompts: int, width: int) -> np.ndarray:
    """Write standard normal embeddings, prompt after prompt; returns their true rewards [prompts * responses]."""
    rng = np.random.default_rng(30)
    array = np.lib.format.open_memmap(path, "w+", np.float32, (prompts, RESPONSES, width))
    weights = rng.standard_normal(width) / np.sqrt(width)
    rewards = np.empty((prompts, RESPONSES))
    for start in range(0, prompts, 1000):
        block = rng.standard_normal((min(1000, prompts - start), RESPONSES, width), dtype=np.float32)
        array[start : start + 1000], rewards[start : start + 1000] = block, block @ weights
    array.flush()
    return rewards.reshape(-1)


def disk(smoke: bool, folder: str | None) -> None:
    from tercet.datasets import annotate, annotation_pairs
    from tercet.inference import laplace, reward, spearman
    from tercet.models import BradleyTerry, Items, LinearHead, open_embeddings

    prompts, width = (300, 32) if smoke else (122_071, WIDTH)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary) / "embeddings.npy"
        rewards = write_embeddings(path, prompts, width)
        items = Items(open_embeddings(path))
        pairs = annotation_pairs(items, rewards, "random", key=0)
        answers = annotate(rewards, pairs, 5.0, key=0)
        small = laplace(BradleyTerry(LinearHead(2.0)), items.take(np.arange(200)), answers.take(np.arange(20)))
        reward(small, items.take(np.arange(20)))  # warm up: imports and compilation
        with PeakMemory() as memory:
            begin = time.perf_counter()
            fit = laplace(BradleyTerry(LinearHead(4.0)), items, answers)
            fitted = time.perf_counter() - begin
            scores = reward(fit, items)
            scored = time.perf_counter() - begin - fitted
        size, converged = path.stat().st_size / 1e9, fit.diagnostics["converged"]
        print(
            f"disk, {size:.1f} GB, {len(items):,} responses x {width}, {len(answers):,} answers: fit {fitted:.0f} s, "
            f"score {scored:.0f} s, peak {memory.peak:.0f} MB (target: 1,000), converged {converged}, "
            f"Spearman correlation with the true rewards {spearman(scores.mean, rewards):.3f}",
            flush=True,
        )


def nuts_rates(smoke: bool, size: list[int]) -> None:
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.diagnostics import effective_sample_size
    from numpyro.infer import MCMC, NUTS

    from tercet.inference import laplace, nuts
    from tercet.models import BradleyTerry, Comparisons, Items, LinearHead

    pairs, width, warmup, samples = (300, 8, 100, 100) if smoke else (*size, 200, 200)
    rng = np.random.default_rng(31)
    spectrum = ((1.0 + np.arange(width)) ** -0.5).astype(np.float32)
    rotation = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)  # embeddings are correlated
    features = (rng.standard_normal((2 * pairs, width), dtype=np.float32) * spectrum) @ rotation
    weights = rng.standard_normal(width) * 2.0 / np.sqrt(2.0 * np.square(features).sum(axis=1).mean())
    difference = features[:pairs] - features[pairs:]
    outcome = (rng.random(pairs) < 1.0 / (1.0 + np.exp(-difference @ weights))).astype(float)
    items, answers = Items(features), Comparisons(np.arange(pairs), np.arange(pairs) + pairs, outcome)

    begin = time.perf_counter()
    head = LinearHead(2.0)
    start = laplace(BradleyTerry(head), items, answers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a few hundred draws are too few for `converged`
        fit = nuts(BradleyTerry(head), items, answers, start=start, warmup=warmup, samples=samples, chains=1)
    ours = time.perf_counter() - begin
    rate = effective_sample_size(fit.samples["weights"]).min() / ours

    def model(x: Any, y: Any) -> None:
        w = numpyro.sample("w", dist.Normal(0.0, 2.0 * head.unit(items)).expand([width]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)

    begin = time.perf_counter()
    with jax.enable_x64(False):
        sampler = MCMC(NUTS(model), num_warmup=warmup, num_samples=samples, progress_bar=False)
        sampler.run(jax.random.key(0), jnp.asarray(difference, jnp.float32), jnp.asarray(outcome, jnp.float32))
        drawn = np.asarray(sampler.get_samples(group_by_chain=True)["w"])
    theirs = time.perf_counter() - begin
    peer = effective_sample_size(drawn).min() / theirs
    gap = np.abs(drawn.mean((0, 1)) - start.center) / drawn.std((0, 1))
    print(
        f"nuts, {pairs:,} x {width}: {rate:.2f} effective draws per second in {ours:.1f} s; plain NumPyro {peer:.2f} "
        f"in {theirs:.1f} s: ratio {rate / peer:.1f} (target: 3); its posterior means differ from Laplace by "
        f"{gap.max():.2f} sd at most",
        flush=True,
    )


def networks(smoke: bool) -> None:
    from tercet.datasets import word_valence
    from tercet.inference import TrainingOptions, ensemble, laplace, log_loss, reward, spearman, win_probability
    from tercet.models import BradleyTerry, MLPHead, project

    words = word_valence()
    items, rng = project(words.items, None), np.random.default_rng(32)
    order = rng.permutation(len(items))
    train, test = order[:3000], order[3000:]

    def pairs(among: np.ndarray, m: int) -> np.ndarray:
        first = rng.integers(len(among), size=m)
        return np.column_stack([among[first], among[(first + rng.integers(1, len(among), size=m)) % len(among)]])

    asked = pairs(test, 5000)
    truth = words.expected_outcome(asked)
    quick = TrainingOptions(rounds=3, patience=3)
    print(
        "networks: held-out log loss, Spearman correlation with the mean ratings of 1,000 test words, seconds of a fit"
    )
    for m in (200,) if smoke else (500, 2000, 5000, 20_000):
        answers = words.answer(pairs(train, m), key=1)
        fits = {
            "linear": lambda: laplace(BradleyTerry(), items, answers),  # noqa: B023
            "network, last layer": lambda: laplace(BradleyTerry(MLPHead()), items, answers),  # noqa: B023
            "ensemble of 8": lambda: ensemble(BradleyTerry(MLPHead()), items, answers),  # noqa: B023
        }
        if smoke:
            fits["ensemble of 8"] = lambda: ensemble(BradleyTerry(MLPHead()), items, answers, options=quick)  # noqa: B023
            del fits["network, last layer"]
        for name, fit in fits.items():
            begin = time.perf_counter()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "training stopped")
                posterior = fit()
            seconds = time.perf_counter() - begin
            score = log_loss(win_probability(posterior, items, asked), truth)
            rank = spearman(reward(posterior, items).mean[test], words.mean_rating[test])
            print(f"  {m:6,} answers, {name:20s} {score:.4f}  {rank:.3f}  {seconds:5.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--folder", help="folder for the 10 GB, which are removed afterwards")
    parser.add_argument(
        "--size", nargs=2, type=int, default=[20_000, 1_024], help="number of pairs and features in nuts"
    )
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if len(args.only) > 1:
        for part in args.only:
            settings = ["--folder", args.folder] if args.folder else []
            settings += ["--size", *map(str, args.size)]
            command = [sys.executable, __file__, "--only", part, *settings, *["--smoke"] * args.smoke]
            subprocess.run(command, check=True)
        return
    if args.only == ["disk"]:
        disk(args.smoke, args.folder)
    if args.only == ["nuts"]:
        nuts_rates(args.smoke, args.size)
    if args.only == ["networks"]:
        networks(args.smoke)


if __name__ == "__main__":
    main()
