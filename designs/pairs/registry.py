"""Every criterion of pairs by name: an objective, and the search for its best batch."""

from __future__ import annotations

from typing import Any

from tercet.designs.criteria.baselines import PosteriorVariance, Random
from tercet.designs.criteria.criterion import Criterion
from tercet.designs.criteria.exchange import Exchange
from tercet.designs.criteria.lazy_greedy import LazyGreedy
from tercet.designs.criteria.objective import Objective
from tercet.designs.criteria.optimality import AOptimality, BatchBALD, DOptimality, VOptimality
from tercet.designs.criteria.search import Greedy, Search, TopK, WeightedDraw
from tercet.designs.pairs.answer_entropies import Entropy, MaxDifference, PredictiveEntropy
from tercet.designs.pairs.coreset import Coreset
from tercet.designs.pairs.draws import BALDByDraws, EPIGByDraws
from tercet.designs.pairs.epig import EPIG
from tercet.designs.pairs.information_gain import BALD, ClosedFormBALD
from tercet.designs.pairs.joint_entropy import JointEntropy
from tercet.designs.pairs.published import PastAwareD, PublishedD, PublishedXtX

TABLE: dict[str, tuple[Objective[Any, Any], Search]] = {
    "random": (Random(), TopK()),
    "max difference": (MaxDifference(), TopK()),
    "entropy": (Entropy(), TopK()),
    "predictive entropy": (PredictiveEntropy(), TopK()),
    "coreset": (Coreset(), WeightedDraw()),
    "XtX": (PublishedXtX(), TopK()),
    "D-optimal (published)": (PublishedD(), TopK()),
    "D-optimal (past-aware)": (PastAwareD(), TopK()),
    "posterior variance": (PosteriorVariance(), TopK()),
    "greedy D": (DOptimality(), LazyGreedy()),
    "greedy A": (AOptimality(), Greedy()),
    "greedy V": (VOptimality(), Greedy()),
    "Fedorov exchange D": (DOptimality(), Exchange(start=LazyGreedy())),
    "Fedorov exchange V": (VOptimality(), Exchange()),
    "BatchBALD": (BatchBALD(), LazyGreedy()),
    "BatchBALD (joint entropy)": (JointEntropy(), LazyGreedy(block=64)),
    "BALD": (BALD(), Greedy()),
    "BALD (top-k)": (BALD(), TopK()),
    "BALD (closed form)": (ClosedFormBALD(), TopK()),
    "BALD (draws)": (BALDByDraws(), TopK()),
    "EPIG": (EPIG(), Greedy(shortlist=2000)),
    "EPIG (top-k)": (EPIG(), TopK()),
    "EPIG (draws)": (EPIGByDraws(), TopK()),
}
CRITERIA: dict[str, Criterion] = {name: Criterion(name, *halves) for name, halves in TABLE.items()}
"""Every criterion under the name by which `select_pairs` knows it."""
