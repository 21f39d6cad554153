"""Population snapshots given a reference SDE, as a NumPyro model: each snapshot a mixture of transitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from tercet.models._inputs import as_jax, as_key
from tercet.models.trajectories.linear_noise import Moments, forward_only, moments
from tercet.models.trajectories.reference_sdes import ReferenceSDE, Theta
from tercet.models.trajectories.simulated_transitions import simulated_moments
from tercet.models.trajectories.snapshots import Snapshots
from tercet.models.trajectories.transitions import SnapshotLaw

JITTER = 1e-12  # of the squared data scale, on every transition covariance: a state without noise stays invertible


@dataclass(frozen=True, eq=False)
class SnapshotModel:
    """A NumPyro model of population snapshots: `model(snapshots)`.

    Sites: the parameters of `sde`, `start_mean` and `start_sd` where coordinates are unobserved (or the start is
    Gaussian), and the observed site `snapshots`: the particles of all later snapshots, one below the other.

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
    substeps : Runge-Kutta steps from one snapshot to the next; `fit_reference` raises them until they are enough
    paths : int
        0: transitions by linear noise, for noise small beside the curvature of the drift (at a proportional volatility
        of 0.5 a log density is off by 0.16 on average after one unit of time, by 0.33 after two). M > 0: by M simulated
        paths from each start and a last step of linear noise (Pedersen), for larger noise; 50 to 500. Time and memory
        grow with M. The random numbers stay the same (`path_key`), so the likelihood is smooth. start="summary" stays
        with linear noise.
    path_steps : steps of a simulated path from one snapshot to the next
    path_key : int seed or JAX key of the simulated paths; another one shows their Monte Carlo error
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
    substeps: int = 5
    paths: int = 0
    path_steps: int = 20
    path_key: Any = 0
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
        if self.paths < 0 or self.path_steps < 2:
            raise ValueError(
                f"paths must be at least 0 and path_steps at least 2, got {self.paths} and {self.path_steps}."
            )
        if self.paths and self.jackknife:
            raise ValueError("the jackknife takes each centre for one Gaussian: pass paths=0 with it.")
        as_key(self.path_key)

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
        latent = {"theta": self.sde.sample_parameters(), "start": self._sample_start(clouds[0], snapshots, weights)}
        simulated = self.paths > 0 and self.start != "summary"
        law = (self._simulated if simulated else self._transitions)(latent, snapshots, clouds)
        spread = law.covariance[..., seen[:, None], seen] + JITTER * snapshots.magnitude**2 * jnp.eye(len(seen))
        logs = self._log_weights(snapshots, weights)
        if simulated and logs is not None:
            logs = jnp.repeat(logs, self.paths, axis=1) - np.log(self.paths)
        whole = SnapshotLaw(law.mean[..., seen], spread, snapshots.counts[1:], logs, self.jackknife)
        counted = None if weights is None else jnp.concatenate(weights[1:])
        _observe("snapshots", whole, jnp.concatenate(clouds[1:])[:, seen], counted)

    @property
    def data_may_be_traced(self) -> bool:
        """Whether one compiled program serves all snapshots of the same shape."""
        return not self.paths or self.start == "summary"

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
            law = dist.MultivariateNormal(mean, scale_tril=found["cloud_root"])
            _observe("first_snapshot", law, points, None if weights is None else weights[0])
        return found

    def _state(self, start: Theta, cloud: Any, snapshots: Snapshots) -> tuple[Any, Any]:
        """Centres [n, d] at the first time and a square root [d, d] of their covariance (a summary's own left out)."""
        seen, hidden = np.flatnonzero(snapshots.observed), np.flatnonzero(~np.asarray(snapshots.observed))
        root = jnp.zeros((self.sde.dim, self.sde.dim))
        if self.start == "gaussian":
            root = root.at[seen[:, None], seen].set(start["cloud_root"])
            cloud = jnp.zeros((1, self.sde.dim)).at[0, seen].set(start["cloud_mean"])
        if len(hidden):
            cloud = cloud.at[:, hidden].set(start["mean"])
            root = root.at[hidden, hidden].set(start["sd"])
        return cloud, root

    def _transitions(self, latent: Theta, snapshots: Snapshots, clouds: Any) -> Moments:
        """Moments [K, n, ...] of the centres of each later snapshot, short clouds filled up."""
        times, size = as_jax(snapshots.times), snapshots.magnitude  # passed on as data: they may be traced
        if self.anchor == "first":

            def forward(latent: Theta, cloud: Any, times: Any, size: Any) -> Moments:
                own = jnp.zeros((self.sde.dim, self.sde.dim))
                if self.start == "summary":
                    seen = np.flatnonzero(snapshots.observed)
                    cloud, whole = _summary(cloud)
                    own = own.at[seen[:, None], seen].set(whole[seen[:, None], seen])
                begin, root = self._state(latent["start"], cloud, snapshots)
                spread = own + root @ root.T
                return _shared(moments(self.sde, latent["theta"], begin, times, self.substeps, spread, size), self.sde)

            return forward_only(forward)(latent, clouds[0], times, size)
        sources, spreads = list(clouds[:-1]), [None] * (len(clouds) - 1)
        if self.start == "summary":
            sources, spreads = map(list, zip(*(_summary(cloud) for cloud in sources), strict=True))
        owner, fill = _rows([len(source) for source in sources])

        def together(theta: Theta, sources: Any, spreads: Any, times: Any, size: Any) -> Moments:
            spread = jnp.stack(spreads) if self.start == "summary" else None
            if self.sde.affine:  # all particles of an interval follow the one at their middle, by its flow
                middle, clock = sources[fill].mean(axis=1), jnp.stack([times[:-1], times[1:]])
                found = moments(self.sde, theta, middle, clock, self.substeps, spread, size, flow=True)
                apart = jnp.einsum("kab,knb->kna", found.flow[0], sources[fill] - middle[:, None])
                return Moments(found.mean[0][:, None] + apart, found.covariance[0][:, None])
            clock = jnp.stack([times[owner], times[owner + 1]])
            found = moments(self.sde, theta, sources, clock, self.substeps, spread, size)
            return jax.tree.map(lambda a: a[0][fill], found)

        return forward_only(together)(latent["theta"], jnp.concatenate(sources), spreads, times, size)

    def _simulated(self, latent: Theta, snapshots: Snapshots, clouds: Any) -> Moments:
        """The same of simulated paths, [K, n * paths, ...]: those of one start lie side by side."""
        times, M = snapshots.times, self.paths
        settings = (M, self.path_steps, self.substeps, self.path_key)
        if self.anchor == "first":

            def forward(latent: Theta, cloud: Any) -> Moments:
                begin, root = self._state(latent["start"], cloud, snapshots)
                begin = jnp.broadcast_to(begin, cloud.shape)  # a Gaussian start: as many draws as there are particles
                return simulated_moments(
                    self.sde, latent["theta"], begin, times, *settings, root=root, scale=snapshots.magnitude
                )

            return forward_only(forward)(latent, clouds[0])
        owner, fill = _rows(snapshots.counts[:-1])
        columns = (fill[:, :, None] * M + np.arange(M)).reshape(len(fill), -1)

        def together(theta: Theta, sources: Any) -> Moments:
            clock = np.stack([times[owner], times[owner + 1]])
            found = simulated_moments(self.sde, theta, sources, clock, *settings, scale=snapshots.magnitude)
            return jax.tree.map(lambda a: a[0][columns], found)

        return forward_only(together)(latent["theta"], jnp.concatenate(clouds[:-1]))

    def _log_weights(self, snapshots: Snapshots, weights: Any) -> Any:
        """Log weights [K, n] of the centres, or None where they are equal."""
        counts = np.array(snapshots.counts)
        if self.start != "given" or (weights is None and (self.anchor == "first" or len(set(counts[:-1])) == 1)):
            return None
        shares = [jnp.ones(count) for count in counts] if weights is None else weights
        sources = [0] * (len(counts) - 1) if self.anchor == "first" else range(len(counts) - 1)
        width = counts[0] if self.anchor == "first" else counts[:-1].max()
        rows = [jnp.log(shares[k] / shares[k].sum()) for k in sources]
        return jnp.stack([jnp.pad(row, (0, width - len(row)), constant_values=-jnp.inf) for row in rows])


def _observe(name: str, law: Any, points: Any, weight: Any) -> None:
    plate = "particle" if name == "snapshots" else "first_particle"
    with numpyro.plate(plate, len(points)):
        if weight is None:
            numpyro.sample(name, law, obs=points)
        else:
            with numpyro.handlers.scale(scale=weight):
                numpyro.sample(name, law, obs=points)


def _rows(counts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of stacked clouds: the cloud of each row, and rows [K, longest], short clouds repeating their last."""
    sizes = np.array(counts)
    fill = np.minimum(np.arange(sizes.max()), sizes[:, None] - 1) + (np.cumsum(sizes) - sizes)[:, None]
    return np.repeat(np.arange(len(sizes)), sizes), fill


def _shared(found: Moments, sde: ReferenceSDE) -> Moments:
    """Without the copies of the one covariance that an affine reference gives all its particles."""
    return found._replace(covariance=found.covariance[:, :1]) if sde.affine else found


def _summary(cloud: Any) -> tuple[Any, Any]:
    """Mean [1, d] and covariance [d, d] of a cloud."""
    mean = cloud.mean(axis=0, keepdims=True)
    return mean, (cloud - mean).T @ (cloud - mean) / len(cloud)
