"""Population snapshots given a reference SDE, as a NumPyro model: each snapshot a mixture of transitions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import jax.typing
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array

from tercet.models._inputs import KeyLike, as_jax, as_key
from tercet.models.trajectories.linear_noise import TransitionMoments, forward_only, linear_noise_moments
from tercet.models.trajectories.reference_sdes import ReferenceSDE, Theta
from tercet.models.trajectories.simulated_transitions import simulated_moments
from tercet.models.trajectories.snapshots import FilledSnapshots, Snapshots
from tercet.models.trajectories.structure import Structural
from tercet.models.trajectories.transitions import SnapshotMixture

JITTER = 1e-12  # of the squared data scale, added to transition covariances: without noise they stay invertible


@dataclass(frozen=True, eq=False)
class SnapshotModel(Structural):
    """A NumPyro model of population snapshots: `model(snapshots)`.

    Sites: the parameters of `sde`, `start_mean` and `start_sd` where coordinates are unobserved, `cloud_mean`,
    `cloud_sd` and `cloud_correlation` where the start is Gaussian, and the observed site `snapshots`: the particles of
    all later snapshots, one below the other.

    Parameters
    ----------
    sde : ReferenceSDE
    anchor : "first" or "consecutive"
        "first": particles of every later snapshot are draws from (1/N_0) sum_i p(. | x_0i), X_0 known: the likelihood
        of independent populations with a common initial distribution. "consecutive": each snapshot given the one
        before, a *composite* likelihood: robust to a drift that fails over long horizons, but it overestimates the
        volatility and its Hessian intervals are wrong (`fit_reference` gives sandwich intervals).
    start : "given", "gaussian" or "summary"
        What is known of the snapshot that is conditioned on: its particles; that it comes from a Gaussian whose mean
        and covariance are learned with the rest (anchor "first": for a wide first snapshot, where the drift is nearly
        linear over it); its sample mean and covariance, taken as known (one moment equation a snapshot: an
        approximation for starting values).
    jackknife : bool
        First-order correction of the composite likelihood for the finite number of mixture components; removes most of
        the bias of rates, not that of the volatility.
    substeps : Runge-Kutta steps from one snapshot to the next; `fit_reference` raises them until they are enough
    paths : int
        0: transitions by linear noise, for noise small beside the curvature of the drift (at a proportional volatility
        of 0.5 a log density is off by 0.16 on average after one unit of time, by 0.33 after two). M > 0: by M simulated
        paths from each start and a last step of linear noise (Pedersen), for larger noise; 50 to 500. Time and memory
        grow with M. The random numbers stay the same (`path_key`), so the likelihood is smooth. start="summary" always
        uses linear noise.
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
    anchor: Literal["first", "consecutive"] = "first"
    start: Literal["given", "gaussian", "summary"] = "given"
    jackknife: bool = False
    substeps: int = 5
    paths: int = 0
    path_steps: int = 20
    path_key: KeyLike = 0
    start_mean: dist.Distribution | None = None
    start_sd: dist.Distribution | None = None

    def __post_init__(self) -> None:
        if self.anchor not in ("first", "consecutive"):
            raise ValueError(f'anchor must be "first" or "consecutive", got {self.anchor!r}.')
        if self.start not in ("given", "gaussian", "summary"):
            raise ValueError(f'start must be "given", "gaussian" or "summary", got {self.start!r}.')
        if (self.anchor, self.start) == ("consecutive", "gaussian"):
            raise ValueError('start="gaussian" is a model of the first snapshot: it goes with anchor="first".')
        if self.jackknife and (self.anchor, self.start) != ("consecutive", "given"):
            raise ValueError('the jackknife corrects the composite likelihood: pass anchor="consecutive" with it.')
        if self.substeps < 1:
            raise ValueError(f"substeps must be at least 1, got {self.substeps}.")
        if self.paths < 0 or self.path_steps < 2:
            raise ValueError(
                f"paths must be at least 0 and path_steps at least 2, got {self.paths} and {self.path_steps}."
            )
        if self.paths and self.jackknife:
            raise ValueError("the jackknife needs one Gaussian for each particle: pass paths=0 with it.")
        as_key(self.path_key)

    def __call__(self, snapshots: Snapshots, weights: Sequence[jax.typing.ArrayLike] | None = None) -> None:
        """Sample parameters and observe every snapshot but the first.

        Parameters
        ----------
        snapshots : Snapshots
            Of `FilledSnapshots` the particles that only fill up have no weight.
        weights : sequence of arrays [n_k], optional
            Weight of each particle, as datum and as mixture component (default 1); what the sandwich differentiates.
        """
        self.check(snapshots)
        shares = None if weights is None else [jnp.asarray(weight) for weight in weights]
        clouds, observed = as_jax(snapshots.particles), np.flatnonzero(snapshots.observed)
        theta, start = self.sde.sample_parameters(), self._sample_start(clouds[0], snapshots, shares)
        moments = (self._simulated if self._simulates else self._transitions)(theta, start, snapshots, clouds)
        jitter = JITTER * snapshots.magnitude**2 * jnp.eye(len(observed))
        logs, present = self._log_weights(snapshots, shares), _present(snapshots)
        if self._simulates and logs is not None:
            logs = jnp.repeat(logs, self.paths, axis=1) - np.log(self.paths)
        mixture = SnapshotMixture(
            moments.mean[..., observed],
            moments.covariance[..., observed[:, None], observed] + jitter,
            snapshots.counts[1:],
            logs,
            self.jackknife,
        )
        scale = _data_weights(shares, present, slice(1, None))
        _observe("snapshots", mixture, jnp.concatenate(clouds[1:])[:, observed], scale)

    def prepared(
        self, snapshots: Snapshots, weights: Sequence[jax.typing.ArrayLike] | None = None
    ) -> tuple[SnapshotModel, tuple[object, ...], dict[str, object]]:
        """The model, and its data as compiled programs take them: checked, without names, filled up to size classes."""
        self.check(snapshots)
        if weights is not None:  # of the particles that were given
            return self, (snapshots, weights), {}
        return self, (FilledSnapshots(snapshots),), {}

    @property
    def _simulates(self) -> bool:
        """Whether transitions are those of simulated paths."""
        return self.paths > 0 and self.start != "summary"

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

    def _sample_start(self, cloud: Array, snapshots: Snapshots, weights: list[Array] | None) -> dict[str, Array]:
        """Sites of what is not known of the first snapshot."""
        observed, hidden = np.flatnonzero(snapshots.observed), np.flatnonzero(~np.asarray(snapshots.observed))
        sites: dict[str, Array] = {}
        if len(hidden):
            with numpyro.plate("unobserved", len(hidden)):
                sites["mean"] = numpyro.sample("start_mean", self.start_mean or dist.Normal(0.0, 3.0))
                sites["sd"] = numpyro.sample("start_sd", self.start_sd or dist.HalfNormal(0.5))
        if self.start == "gaussian":
            points, d = cloud[:, observed], len(observed)
            present = _present(snapshots)
            middle, covariance = _summary(points, None if present is None else present[0])
            middle, unit = middle[0], jnp.sqrt(jnp.diagonal(covariance))
            mean = numpyro.sample("cloud_mean", dist.Normal(middle, 10.0 * unit).to_event(1))
            sd = numpyro.sample("cloud_sd", dist.LogNormal(jnp.log(unit), 1.0).to_event(1))
            correlation = jnp.eye(1) if d == 1 else numpyro.sample("cloud_correlation", dist.LKJCholesky(d))
            sites |= {"cloud_mean": mean, "cloud_factor": sd[:, None] * correlation}
            gaussian = dist.MultivariateNormal(mean, scale_tril=sites["cloud_factor"])
            _observe("first_snapshot", gaussian, points, _data_weights(weights, present, slice(1)))
        return sites

    def _initial_state(self, start: Theta, cloud: Array, snapshots: Snapshots) -> tuple[Array, Array]:
        """Means [n, d] at the first time and C [d, d] with C C' their covariance (that of a summary left out)."""
        observed, hidden = np.flatnonzero(snapshots.observed), np.flatnonzero(~np.asarray(snapshots.observed))
        factor = jnp.zeros((self.sde.dim, self.sde.dim))
        if self.start == "gaussian":
            factor = factor.at[observed[:, None], observed].set(start["cloud_factor"])
            cloud = jnp.zeros((1, self.sde.dim)).at[0, observed].set(start["cloud_mean"])
        if len(hidden):
            cloud = cloud.at[:, hidden].set(start["mean"])
            factor = factor.at[hidden, hidden].set(start["sd"])
        return cloud, factor

    def _transitions(
        self, theta: Theta, start: Theta, snapshots: Snapshots, clouds: Sequence[Array]
    ) -> TransitionMoments:
        """Moments [K, n, ...] of the components of each later snapshot, short clouds filled up."""
        times, size = as_jax(snapshots.times), snapshots.magnitude  # passed on as data: they may be traced
        present: Sequence[Array | None] = _present(snapshots) or [None] * len(clouds)
        if self.anchor == "first":

            def forward(
                latent: tuple[Theta, Theta],
                cloud: Array,
                present: Array | None,
                times: Array,
                size: jax.typing.ArrayLike,
            ) -> TransitionMoments:
                own = jnp.zeros((self.sde.dim, self.sde.dim))
                if self.start == "summary":
                    observed = np.flatnonzero(snapshots.observed)
                    cloud, covariance = _summary(cloud, present)
                    own = own.at[observed[:, None], observed].set(covariance[observed[:, None], observed])
                begin, factor = self._initial_state(latent[0], cloud, snapshots)
                moments = self._linear_noise(latent[1], begin, times, own + factor @ factor.T, size)
                # An affine reference gives all particles one covariance: without its copies.
                return moments._replace(covariance=moments.covariance[:, :1]) if self.sde.affine else moments

            return forward_only(forward)((start, theta), clouds[0], present[0], times, size)
        sources, spreads = list(clouds[:-1]), None
        if self.start == "summary":
            summaries = [_summary(cloud, used) for cloud, used in zip(clouds[:-1], present[:-1], strict=True)]
            sources, spreads = [mean for mean, _ in summaries], jnp.stack([covariance for _, covariance in summaries])
        owner, fill = _stacked_rows([len(source) for source in sources])

        def together(
            theta: Theta, sources: Array, spreads: Array | None, times: Array, size: jax.typing.ArrayLike
        ) -> TransitionMoments:
            if self.sde.affine:  # all particles of an interval follow the one at their mean, by its flow
                middle, clock = sources[fill].mean(axis=1), jnp.stack([times[:-1], times[1:]])
                mean, covariance, flow = self._linear_noise(theta, middle, clock, spreads, size, flow=True)
                assert flow is not None
                offset = jnp.einsum("kab,knb->kna", flow[0], sources[fill] - middle[:, None])
                return TransitionMoments(mean[0][:, None] + offset, covariance[0][:, None])
            clock = jnp.stack([times[owner], times[owner + 1]])
            moments = self._linear_noise(theta, sources, clock, spreads, size)
            return TransitionMoments(moments.mean[0][fill], moments.covariance[0][fill])

        return forward_only(together)(theta, jnp.concatenate(sources), spreads, times, size)

    def _linear_noise(
        self,
        theta: Theta,
        starts: Array,
        times: Array,
        covariance: Array | None,
        size: jax.typing.ArrayLike,
        *,
        flow: bool = False,
    ) -> TransitionMoments:
        return linear_noise_moments(
            self.sde, theta, starts, times, substeps=self.substeps, covariance=covariance, scale=size, flow=flow
        )

    def _simulated(
        self, theta: Theta, start: Theta, snapshots: Snapshots, clouds: Sequence[Array]
    ) -> TransitionMoments:
        """The same of simulated paths, [K, n * paths, ...]: those of one start lie side by side."""
        times = as_jax(snapshots.times)
        simulated = partial(
            simulated_moments,
            self.sde,
            paths=self.paths,
            steps=self.path_steps,
            substeps=self.substeps,
            key=self.path_key,
            scale=snapshots.magnitude,
        )
        if self.anchor == "first":

            def forward(latent: tuple[Theta, Theta], cloud: Array, times: Array) -> TransitionMoments:
                begin, factor = self._initial_state(latent[0], cloud, snapshots)
                begin = jnp.broadcast_to(begin, cloud.shape)  # a Gaussian start: as many draws as there are particles
                return simulated(latent[1], begin, times, start_factor=factor)

            return forward_only(forward)((start, theta), clouds[0], times)
        owner, fill = _stacked_rows(snapshots.counts[:-1])
        columns = (fill[:, :, None] * self.paths + np.arange(self.paths)).reshape(len(fill), -1)

        present = _present(snapshots)
        # A particle keeps the random numbers that it has where nothing fills up.
        rows = None if present is None else jnp.maximum(jnp.cumsum(jnp.concatenate(present[:-1])) - 1, 0).astype(int)

        def together(theta: Theta, sources: Array, times: Array) -> TransitionMoments:
            moments = simulated(theta, sources, jnp.stack([times[owner], times[owner + 1]]), rows=rows)
            return TransitionMoments(moments.mean[0][columns], moments.covariance[0][columns])

        return forward_only(together)(theta, jnp.concatenate(clouds[:-1]), times)

    def _log_weights(self, snapshots: Snapshots, weights: list[Array] | None) -> Array | None:
        """Log weights [K, n] of the components, or None where they are equal."""
        counts, present = np.array(snapshots.counts), _present(snapshots)
        if self.start == "gaussian":
            weights = None  # its draws are no particles
        equal = weights is None and present is None and (self.anchor == "first" or len(set(counts[:-1])) == 1)
        one = self.start == "summary" or (self.start == "gaussian" and not self._simulates)
        if one or equal:
            return None
        ones = [jnp.ones(count) for count in counts]
        shares, used = weights or ones, present or ones
        sources = [0] * (len(counts) - 1) if self.anchor == "first" else range(len(counts) - 1)
        width = counts[0] if self.anchor == "first" else counts[:-1].max()
        # Two logarithms: that of a product would have no finite derivative in the weight of what fills up.
        rows = [jnp.log(shares[k]) + jnp.log(used[k]) - jnp.log((shares[k] * used[k]).sum()) for k in sources]
        return jnp.stack([jnp.pad(row, (0, width - len(row)), constant_values=-jnp.inf) for row in rows])


def _observe(name: str, distribution: dist.Distribution, points: Array, weight: Array | None) -> None:
    plate = "particle" if name == "snapshots" else "first_particle"
    weighted = nullcontext() if weight is None else numpyro.handlers.scale(scale=weight)
    with numpyro.plate(plate, len(points)), weighted:
        numpyro.sample(name, distribution, obs=points)


def _stacked_rows(counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Of stacked clouds: the cloud of each row, and rows [K, longest], short clouds repeating their last."""
    sizes = np.array(counts)
    fill = np.minimum(np.arange(sizes.max()), sizes[:, None] - 1) + (np.cumsum(sizes) - sizes)[:, None]
    return np.repeat(np.arange(len(sizes)), sizes), fill


def _present(snapshots: Snapshots) -> list[Array] | None:
    """One for each particle and zero for what fills up, or None where nothing does."""
    return list(as_jax(snapshots.present)) if isinstance(snapshots, FilledSnapshots) else None


def _data_weights(weights: list[Array] | None, present: list[Array] | None, which: slice) -> Array | None:
    """Weights of the particles of some snapshots as data, or None where all are one."""
    given = [part[which] for part in (weights, present) if part is not None]
    factors = [jnp.concatenate(part) for part in given]
    return None if not factors else factors[0] * factors[1] if len(factors) == 2 else factors[0]


def _summary(cloud: Array, present: Array | None = None) -> tuple[Array, Array]:
    """Mean [1, d] and covariance [d, d] of a cloud."""
    share = jnp.full(len(cloud), 1.0 / len(cloud)) if present is None else present / present.sum()
    mean = share[None] @ cloud
    return mean, (share[:, None] * (cloud - mean)).T @ (cloud - mean)
