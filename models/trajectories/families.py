"""Drift families: what is known of a system before its parameters are."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import jax.typing
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array

from tercet.models.trajectories.reference_sdes import Drift, Theta, as_number


def brownian(dim: int) -> Drift:
    """No drift, b = 0: the reference of plain entropic optimal transport.

    Parameters
    ----------
    dim : number of coordinates d
    """
    return Drift(_no_drift, {}, axis_names(dim), affine=True)


def _no_drift(theta: Theta, x: Array, t: jax.typing.ArrayLike) -> Array:
    return jnp.zeros_like(x)


def ornstein_uhlenbeck(dim: int) -> Drift:
    """b(x) = rate * (level - x), coordinate by coordinate: sites `rate` [d] > 0 and `level` [d].

    Priors: rate LogNormal(0, 1), level Normal(0, 3); change them by `.with_priors` where the data have other units.

    Parameters
    ----------
    dim : number of coordinates d
    """
    priors = {
        "rate": dist.LogNormal(0.0, 1.0).expand([dim]).to_event(1),
        "level": dist.Normal(0.0, 3.0).expand([dim]).to_event(1),
    }
    return Drift(_mean_reversion, priors, axis_names(dim), affine=True)


def _mean_reversion(theta: Theta, x: Array, t: jax.typing.ArrayLike) -> Array:
    return theta["rate"] * (theta["level"] - x)


def lotka_volterra() -> Drift:
    """Predator and prey: (alpha x - beta x y, delta x y - gamma y), rates LogNormal(-1, 1) each.

    References
    ----------
    Lotka (1925), Elements of Physical Biology; Volterra (1926), Nature 118.
    """
    priors = {site: dist.LogNormal(-1.0, 1.0) for site in ("alpha", "beta", "gamma", "delta")}
    return Drift(_predation, priors, ("prey", "predator"))


def _predation(theta: Theta, x: Array, t: jax.typing.ArrayLike) -> Array:
    prey, predator = x[0], x[1]
    return jnp.stack([
        theta["alpha"] * prey - theta["beta"] * prey * predator,
        theta["delta"] * prey * predator - theta["gamma"] * predator,
    ])  # fmt: skip


def repressilator(protein: bool = False) -> Drift:
    """Three genes, each repressing the next: m_i' = beta / (1 + (p_{i-1} / k)^n) - gamma m_i.

    Without `protein` the mRNA represses by itself, p = m. With it, six coordinates: p_i' = rate (m_i - p_i), the
    protein in units in which its steady state equals that of its mRNA (the scale of an unobserved coordinate is not
    identified).

    Priors: beta LogNormal(log 5, 1), n LogNormal(log 2, 0.5), k, gamma, rate LogNormal(0, 1).

    Parameters
    ----------
    protein : add the proteins, which are usually not observed

    References
    ----------
    Elowitz and Leibler (2000), Nature 403.
    """
    priors = {
        "beta": dist.LogNormal(float(np.log(5.0)), 1.0),
        "n": dist.LogNormal(float(np.log(2.0)), 0.5),
        "k": dist.LogNormal(0.0, 1.0),
        "gamma": dist.LogNormal(0.0, 1.0),
    }
    names = tuple(f"mRNA {i}" for i in (1, 2, 3))
    if not protein:
        return Drift(_repression, priors, names)
    proteins = tuple(f"protein {i}" for i in (1, 2, 3))
    return Drift(_repression_by_proteins, {**priors, "rate": dist.LogNormal(0.0, 1.0)}, names + proteins)


def _transcription(theta: Theta, m: Array, p: Array) -> Array:
    # 1 / (1 + (p / k)^n) as a logistic function of log p: cannot overflow, and powers are slow.
    log_ratio = jnp.log(jnp.maximum(jnp.roll(p, 1), 1e-6)) - jnp.log(theta["k"])
    return theta["beta"] * jax.nn.sigmoid(-theta["n"] * log_ratio) - theta["gamma"] * m


def _repression(theta: Theta, x: Array, t: jax.typing.ArrayLike) -> Array:
    return _transcription(theta, x, x)


def _repression_by_proteins(theta: Theta, x: Array, t: jax.typing.ArrayLike) -> Array:
    m, p = x[:3], x[3:]
    return jnp.concatenate([_transcription(theta, m, p), theta["rate"] * (m - p)])


def big_vortex(center_sd: float = 3.0) -> Drift:
    """Rotation of the whole plane about a centre with inflow: b(x) = omega J (x - c) - inflow (x - c).

    Sites `omega` (radians per unit of time), `inflow`, `center` [2]; J turns by a right angle.

    Parameters
    ----------
    center_sd : prior sd of the centre, in data units
    """
    priors = {
        "omega": dist.Normal(0.0, 2.0),
        "inflow": dist.Normal(0.0, 1.0),
        "center": dist.Normal(0.0, center_sd).expand([2]).to_event(1),
    }
    return Drift(_rotation, priors, axis_names(2), affine=True)


def _rotation(theta: Theta, x: Array, t: jax.typing.ArrayLike) -> Array:
    offset = x - theta["center"]
    return theta["omega"] * jnp.stack([-offset[1], offset[0]]) - theta["inflow"] * offset


def lamb_oseen(vortices: int = 1, center_sd: float = 3.0) -> Drift:
    """Lamb-Oseen vortices: b(x) = sum_v circulation_v J r / (2 pi |r|^2) (1 - exp(-|r|^2 / core_v^2)), r = x - c_v.

    Sites `circulation` [v], `core` [v] (radius, data units), `center` [v, 2].

    Parameters
    ----------
    vortices : how many
    center_sd : prior sd of the centres, in data units

    References
    ----------
    Saffman (1992), Vortex Dynamics, section 13.1.
    """
    if vortices < 1:
        raise ValueError(f"vortices must be at least 1, got {vortices}.")
    priors = {
        "circulation": dist.Normal(0.0, 5.0).expand([vortices]).to_event(1),
        "core": dist.LogNormal(0.0, 0.7).expand([vortices]).to_event(1),
        "center": dist.Normal(0.0, center_sd).expand([vortices, 2]).to_event(2),
    }
    return Drift(_vortices, priors, axis_names(2))


def _vortices(theta: Theta, x: Array, t: jax.typing.ArrayLike) -> Array:
    offset = x - theta["center"]  # [v, 2]
    core = jnp.square(theta["core"])
    # -expm1(-u) / u is smooth at the centre; the bound keeps the quotient from being 0 / 0 there.
    u = jnp.maximum(jnp.square(offset).sum(axis=1) / core, 1e-8)
    speed = theta["circulation"] / (2.0 * jnp.pi * core) * -jnp.expm1(-u) / u
    return (speed[:, None] * jnp.stack([-offset[:, 1], offset[:, 0]], axis=1)).sum(axis=0)


def coupled_springs(masses: int, dim: int = 1) -> Drift:
    """Unit masses in a chain between two walls: q'' = -stiffness K (q - rest) - damping q', K the chain's matrix.

    K has 2 on the diagonal and -1 beside it. Coordinates: positions, then velocities, masses * dim of each. Noise acts
    on the velocities only: `diagonal_volatility(2 * m, [0] * m + [s] * m)`, m = masses * dim.

    Sites `stiffness`, `damping` LogNormal(0, 1), `rest` [masses * dim] Normal(0, 3).

    Parameters
    ----------
    masses : number of masses (markers, joints)
    dim : dimensions in which each moves
    """
    if masses < 1 or dim < 1:
        raise ValueError(f"masses and dim must be at least 1, got {masses} and {dim}.")
    chain = 2.0 * np.eye(masses) - np.eye(masses, k=1) - np.eye(masses, k=-1)
    priors = {
        "stiffness": dist.LogNormal(0.0, 1.0),
        "damping": dist.LogNormal(0.0, 1.0),
        "rest": dist.Normal(0.0, 3.0).expand([masses * dim]).to_event(1),
    }
    labels = [
        f"{i + 1}" if dim == 1 else f"{i + 1}{'xyz'[k] if dim < 4 else k}" for i in range(masses) for k in range(dim)
    ]
    names = [f"position {s}" for s in labels] + [f"velocity {s}" for s in labels]
    return Drift(partial(_springs, np.kron(chain, np.eye(dim))), priors, names, affine=True)


def _springs(coupling: np.ndarray | Array, theta: Theta, x: Array, t: jax.typing.ArrayLike) -> Array:
    q, v = x[: len(coupling)], x[len(coupling) :]
    force = as_number(coupling, x) @ (q - theta["rest"])
    return jnp.concatenate([v, -theta["stiffness"] * force - theta["damping"] * v])


def axis_names(dim: int) -> tuple[str, ...]:
    """x0, x1, ...: names of coordinates that have none of their own."""
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}.")
    return tuple(f"x{i}" for i in range(dim))
