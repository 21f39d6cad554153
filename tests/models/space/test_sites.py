"""Sites: what they accept, what they keep, and what they answer to bad input."""

import re

import numpy as np
import pytest
from containers import assert_frozen_pytree

from tercet.models import Sites

X = np.arange(6.0).reshape(3, 2)


BAD = {
    "swapped degrees": (lambda: Sites([[170.0, 50.0]], "sphere"), "latitude.*swapped.*latitude first"),
    "longitude off": (lambda: Sites([[50.0, 400.0]], "sphere"), "longitude.*\\[-180, 360\\]"),
    "sphere in 3 dimensions": (lambda: Sites(np.zeros((2, 3)), "sphere"), "latitude and longitude"),
    "unknown metric": (lambda: Sites(X, "torus"), '"plane" or "sphere", got \'torus\''),
}


@pytest.mark.parametrize(("build", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named_with_what_to_do(build, message):
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        build()


def test_sites_are_a_frozen_pytree():
    assert_frozen_pytree(Sites([[50.0, 4.0], [51.0, 5.0]], "sphere", ids=["here", "there"]))
