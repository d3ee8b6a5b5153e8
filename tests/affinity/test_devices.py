"""The average lives where the gradients live."""

import numpy as np
import pytest
import torch

from gnn_mtl.affinity import GradientEMA


@pytest.mark.gpu
def test_cuda_equals_cpu_and_states_move_between_them(observed):
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    stream = torch.randn(4, 5, 300, generator=torch.Generator().manual_seed(0))
    here, there = GradientEMA(5), GradientEMA(5)
    for rows in stream[:3]:
        valid = torch.ones(5, dtype=torch.bool, device="cuda")
        here.update(observed(rows))
        there.update(observed(rows.cuda(), valid=valid))
    assert there.mean().is_cuda
    np.testing.assert_allclose(there.affinity().values, here.affinity().values, atol=1e-6)
    here.load_state_dict(there.state_dict())
    here.update(observed(stream[3]))
    there.update(observed(stream[3].cuda()))
    assert not here.mean().is_cuda
    np.testing.assert_allclose(there.affinity().values, here.affinity().values, atol=1e-6)
