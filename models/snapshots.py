"""Population snapshots given a reference SDE, as a NumPyro model: each snapshot a mixture of transitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from tercet.models._inputs import as_jax
from tercet.models.data import Snapshots
from tercet.models.linear_noise import Moments, forward_only, moments
from tercet.models.reference_sdes import ReferenceSDE, Theta
from tercet.models.transitions import TransitionMixture

JITTER = 1e-12  # of the squared data scale, on every transition covariance: a state without noise stays invertible


@dataclass(frozen=True)
class SnapshotModel:
    """A NumPyro model of population snapshots: `model(snapshots)`.

    Sites: the parameters of `sde`, `start_mean` and `start_sd` where coordinates are unobserved (or the start is
    Gaussian), and one observed site a later snapshot, `snapshot_1`, `snapshot_2`, ... [n_k, d].

    Parameters
    ----------
    sde : ReferenceSDE
    anchor : "first" or "consecutive"
        "first": particles of every later snapshot are draws from (1/N_0) sum_i p(. | x_0i), X_0 known: the likelihood
        of independent populations that all started alike. "consecutive": each snapshot given the one before, a
        *composite* likelihood: robust to a drift that fails over long horizons, but it overstates the volatility and
        its Hessian intervals are wrong (`fit_reference` gives sandwich intervals).
    start : "given", "gaussian" or "summary"
        What is known of the cloud that is conditioned on: its particles; that it comes from a Gaussian whose mean and
        covariance are learned with the rest (anchor "first": for a wide first cloud, where the drift is near linear
        over it); its sample mean and covariance, taken as given (one moment equation a snapshot: quick and rough).
    jackknife : bool
        First-order correction of the composite likelihood for the finite number of centres; removes most of the bias
        of rates, not that of the volatility.
    substeps : Runge-Kutta steps from one snapshot to the next
    start_mean, start_sd : NumPyro distributions
        Priors of mean and sd of each unobserved coordinate in the first snapshot; default Normal(0, 3) and
        HalfNormal(0.5).

    References
    ----------
    Shen, Berlinghieri, Broderick (2024), arXiv 2408.06277; Berlinghieri et al. (2025), arXiv 2505.16082; Varin, Reid,
    Firth (2011), An overview of composite likelihood methods, Statistica Sinica 21.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.models import ReferenceSDE, SnapshotModel, Snapshots, constant_volatility, ornstein_uhlenbeck
    >>> rng = np.random.default_rng(0)
    >>> cells = Snapshots([rng.normal(k, 1.0, (40 + k, 1)) for k in range(3)], times=[0.0, 1.0, 2.0])
    >>> model = SnapshotModel(ReferenceSDE(ornstein_uhlenbeck(1), constant_volatility()))
    >>> from tercet.inference import fit_reference
    >>> sorted(fit_reference(model, cells).mean())
    ['level', 'rate', 'volatility']
    """

    sde: ReferenceSDE
    anchor: str = "first"
    start: str = "given"
    jackknife: bool = False
    substeps: int = 10
    start_mean: Any = None
    start_sd: Any = None

    def __post_init__(self) -> None:
        if self.anchor not in ("first", "consecutive"):
            raise ValueError(f'anchor must be "first" or "consecutive", got {self.anchor!r}.')
        if self.start not in ("given", "gaussian", "summary"):
            raise ValueError(f'start must be "given", "gaussian" or "summary", got {self.start!r}.')
        if (self.anchor, self.start) == ("consecutive", "gaussian"):
            raise ValueError('start="gaussian" learns the law of the first snapshot: it goes with anchor="first".')
        if self.jackknife and (self.anchor, self.start) != ("consecutive", "given"):
            raise ValueError('the jackknife corrects the composite likelihood: pass anchor="consecutive" with it.')
        if self.substeps < 1:
            raise ValueError(f"substeps must be at least 1, got {self.substeps}.")

    def __call__(self, snapshots: Snapshots, weights: Any = None) -> None:
        """Sample parameters and observe every snapshot but the first.

        Parameters
        ----------
        snapshots : Snapshots
        weights : sequence of arrays [n_k], optional
            How much each particle counts, as datum and as centre (default 1); what the sandwich differentiates.
        """
        self.check(snapshots)
        clouds, seen = as_jax(snapshots.particles), np.flatnonzero(snapshots.observed)
        size = snapshots.magnitude
        latent = {"theta": self.sde.sample_parameters(), "start": self._sample_start(clouds[0], snapshots, weights)}
        for k, law in enumerate(self._transitions(latent, snapshots, clouds, size), start=1):
            spread = law.covariance[..., seen[:, None], seen] + JITTER * size**2 * jnp.eye(len(seen))
            source = 0 if self.anchor == "first" else k - 1
            logs = (
                None if weights is None or self.start != "given" else jnp.log(weights[source] / weights[source].sum())
            )
            transition = TransitionMixture(law.mean[:, seen], spread, logs, self.jackknife, len(clouds[k]))
            _observe(k, transition, clouds[k][:, seen], weights)

    def check(self, snapshots: Snapshots) -> None:
        """Raise where these snapshots do not fit this model."""
        if not isinstance(snapshots, Snapshots):
            raise ValueError(f"expected Snapshots(particles, times), got {type(snapshots).__name__}.")
        if len(snapshots) < 2:
            raise ValueError("one snapshot tells nothing of a dynamics; give at least two.")
        dim = snapshots.particles[0].shape[1]
        if dim != self.sde.dim:
            raise ValueError(
                f"the reference moves {self.sde.dim} coordinates {self.sde.names}, the snapshots have {dim}; "
                "unobserved coordinates are columns of filler with observed=False."
            )
        if not all(snapshots.observed) and self.anchor == "consecutive":
            raise ValueError('unobserved coordinates need anchor="first": later snapshots do not hold their values.')
        if self.jackknife and min(len(cloud) for cloud in snapshots.particles[:-1]) < 2:
            raise ValueError("the jackknife needs at least two particles in every snapshot but the last.")

    def _sample_start(self, cloud: Any, snapshots: Snapshots, weights: Any) -> Theta:
        """Sites of what is not known of the first snapshot."""
        seen, hidden = np.flatnonzero(snapshots.observed), np.flatnonzero(~np.asarray(snapshots.observed))
        found: Theta = {}
        if len(hidden):
            with numpyro.plate("unobserved", len(hidden)):
                found["mean"] = numpyro.sample("start_mean", self.start_mean or dist.Normal(0.0, 3.0))
                found["sd"] = numpyro.sample("start_sd", self.start_sd or dist.HalfNormal(0.5))
        if self.start == "gaussian":
            points, d = cloud[:, seen], len(seen)
            middle, unit = points.mean(axis=0), points.std(axis=0)
            mean = numpyro.sample("cloud_mean", dist.Normal(middle, 10.0 * unit).to_event(1))
            sd = numpyro.sample("cloud_sd", dist.LogNormal(jnp.log(unit), 1.0).to_event(1))
            root = jnp.eye(1) if d == 1 else numpyro.sample("cloud_correlation", dist.LKJCholesky(d))
            found |= {"cloud_mean": mean, "cloud_root": sd[:, None] * root}
            _observe(0, dist.MultivariateNormal(mean, scale_tril=found["cloud_root"]), points, weights)
        return found

    def _state(self, start: Theta, cloud: Any, snapshots: Snapshots) -> tuple[Any, Any]:
        """Centres [n, d] and covariance [d, d] at the first time."""
        seen, hidden = np.flatnonzero(snapshots.observed), np.flatnonzero(~np.asarray(snapshots.observed))
        spread = jnp.zeros((self.sde.dim, self.sde.dim))
        if self.start == "summary":
            cloud, whole = _summary(cloud)
            spread = spread.at[seen[:, None], seen].set(whole[seen[:, None], seen])
        elif self.start == "gaussian":
            spread = spread.at[seen[:, None], seen].set(start["cloud_root"] @ start["cloud_root"].T)
            cloud = jnp.zeros((1, self.sde.dim)).at[0, seen].set(start["cloud_mean"])
        if len(hidden):
            cloud = cloud.at[:, hidden].set(start["mean"])
            spread = spread.at[hidden, hidden].set(jnp.square(start["sd"]))
        return cloud, spread

    def _transitions(self, latent: Theta, snapshots: Snapshots, clouds: Any, size: float) -> list[Moments]:
        """Moments of the centres of each later snapshot."""
        times = as_jax(snapshots.times)
        if self.anchor == "first":

            def forward(latent: Theta) -> Moments:
                begin, spread = self._state(latent["start"], clouds[0], snapshots)
                return moments(self.sde, latent["theta"], begin, times, self.substeps, spread, size)

            found = forward_only(forward)(latent)
            return [jax.tree.map(lambda a, k=k: a[k], found) for k in range(len(clouds) - 1)]
        sources, spreads = list(clouds[:-1]), None
        if self.start == "summary":
            sources, spreads = map(list, zip(*(_summary(cloud) for cloud in sources), strict=True))
        if self.sde.affine:  # one matrix an interval ...

            def each(theta: Theta) -> list[Moments]:
                return [
                    moments(self.sde, theta, x, times[k : k + 2], self.substeps, spreads and spreads[k], size)
                    for k, x in enumerate(sources)
                ]

            return [jax.tree.map(lambda a: a[0], found) for found in forward_only(each)(latent["theta"])]
        counts = np.array([len(source) for source in sources])  # ... or the particles of all intervals in one scan
        owner = np.repeat(np.arange(len(counts)), counts)
        clock = jnp.stack([times[owner], times[owner + 1]])

        def together(theta: Theta) -> Moments:
            spread = None if spreads is None else jnp.stack(spreads)
            return moments(self.sde, theta, jnp.concatenate(sources), clock, self.substeps, spread, size)

        found, ends = forward_only(together)(latent["theta"]), np.cumsum(counts)
        return [jax.tree.map(lambda a, i=i, j=j: a[0, i:j], found) for i, j in zip(ends - counts, ends, strict=True)]


def _observe(k: int, law: Any, points: Any, weights: Any) -> None:
    with numpyro.plate(f"particle_{k}", len(points)):
        if weights is None:
            numpyro.sample(f"snapshot_{k}", law, obs=points)
        else:
            with numpyro.handlers.scale(scale=weights[k]):
                numpyro.sample(f"snapshot_{k}", law, obs=points)


def _summary(cloud: Any) -> tuple[Any, Any]:
    """Mean [1, d] and covariance [d, d] of a cloud."""
    mean = cloud.mean(axis=0, keepdims=True)
    return mean, (cloud - mean).T @ (cloud - mean) / len(cloud)
