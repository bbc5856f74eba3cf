import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from vision.errors import UserError
from vision.pretrained.variables import read_variables, write_variables

VARIABLES = {
    "params": {"layer": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3).T, "bias": jnp.ones(2)}},
    "constants": {"count": np.array(3, np.int32), "half": jnp.ones(2, jnp.bfloat16)},
}


def test_there_and_back_under_our_own_names(tmp_path):
    path = tmp_path / "ours.safetensors"
    write_variables(path, VARIABLES)
    names = {"params/layer/kernel", "params/layer/bias", "constants/count", "constants/half"}
    assert set(safetensors.numpy.load_file(path)) == names
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), VARIABLES)
    found = read_variables(path, target)
    assert jax.tree.structure(found) == jax.tree.structure(VARIABLES)
    for old, new in zip(jax.tree.leaves(VARIABLES), jax.tree.leaves(found), strict=True):
        assert new.dtype == old.dtype
        np.testing.assert_array_equal(new, np.asarray(old), strict=True)


def test_another_network(tmp_path):
    path = tmp_path / "ours.safetensors"
    write_variables(path, VARIABLES)
    with pytest.raises(UserError, match="2 arrays that belong nowhere here: constants/count, constants/half"):
        read_variables(path, {"params": VARIABLES["params"]})
    wider = {**VARIABLES, "params": {"layer": {"kernel": np.zeros((3, 4), np.float32), "bias": np.zeros(2)}}}
    with pytest.raises(UserError, match=r"params/layer/kernel of shape \(3, 2\), where .* needs \(3, 4\)"):
        read_variables(path, wider)
