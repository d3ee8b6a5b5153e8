"""The sparse product against a dense one, in every differentiation mode."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import jacfwd, jacrev, jvp, vjp, vmap

from gnn_mtl._core.errors import ShapeError
from gnn_mtl.graph import Block, aggregate

NUM_SRC, NUM_DST, WIDTH = 7, 5, 3
INDPTR = [0, 3, 3, 4, 8, 9]  # target 1 has no source; target 3 has one source twice
INDICES = [0, 6, 2, 1, 5, 5, 4, 0, 3]
CASES = [("sum", False), ("mean", False), ("sum", True), ("mean", True)]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    return request.param


@pytest.fixture(params=[torch.int32, torch.int64], ids=["int32", "int64"])
def block(request, device):
    return Block(
        torch.tensor(INDPTR, dtype=request.param), torch.tensor(INDICES, dtype=request.param),
        NUM_SRC,
    ).to(device)  # fmt: skip


@pytest.fixture
def x(device):
    return torch.randn(NUM_SRC, WIDTH, dtype=torch.float64).to(device)


@pytest.fixture
def weight(device):
    return torch.randn(len(INDICES), dtype=torch.float64).to(device)


def dense(weight, reduce, like):
    """The operator as a dense matrix ``[num_dst, num_src]``, edge by edge."""
    matrix = torch.zeros(NUM_DST, NUM_SRC, dtype=torch.float64)
    for target in range(NUM_DST):
        start, stop = INDPTR[target], INDPTR[target + 1]
        for edge in range(start, stop):
            value = 1.0 if weight is None else float(weight[edge])
            if reduce == "mean":
                value /= stop - start
            matrix[target, INDICES[edge]] += value
    return matrix.to(like)


@pytest.fixture(params=CASES, ids=["sum", "mean", "weighted sum", "weighted mean"])
def case(request, block, x, weight):
    """(function of x, the dense matrix it is)."""
    reduce, weighted = request.param
    used = weight if weighted else None
    return (lambda z: aggregate(z, block, weight=used, reduce=reduce)), dense(used, reduce, x)


def test_forward_and_backward(case, x):
    function, matrix = case
    torch.testing.assert_close(function(x), matrix @ x)
    x.requires_grad_()
    back = torch.randn(NUM_DST, WIDTH).to(x)
    (grad,) = torch.autograd.grad(function(x), x, back)
    torch.testing.assert_close(grad, matrix.T @ back)


def test_gradcheck_in_all_modes(case, x):
    function, _ = case
    x.requires_grad_()
    assert torch.autograd.gradcheck(
        function, x, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(
        lambda z: function(z).sin(), x, check_fwd_over_rev=True, check_rev_over_rev=True
    )


def test_forward_mode(case, x):
    function, matrix = case
    tangent = torch.randn_like(x)
    with forward_ad.dual_level():
        out = forward_ad.unpack_dual(function(forward_ad.make_dual(x, tangent)))
    torch.testing.assert_close(out.primal, matrix @ x)
    torch.testing.assert_close(out.tangent, matrix @ tangent)
    value, slope = jvp(function, (x,), (tangent,))
    torch.testing.assert_close(value, matrix @ x)
    torch.testing.assert_close(slope, matrix @ tangent)


def test_vjp_vmap_and_their_products(case, x):
    function, matrix = case
    stack = torch.randn(4, *x.shape).to(x)
    torch.testing.assert_close(vmap(function)(stack), matrix @ stack)
    last = vmap(function, in_dims=2, out_dims=1)(stack.movedim(0, 2))
    torch.testing.assert_close(last, (matrix @ stack).movedim(0, 1))
    nested = torch.randn(2, 4, *x.shape).to(x)
    torch.testing.assert_close(vmap(vmap(function))(nested), matrix @ nested)
    slopes = vmap(lambda t: jvp(function, (x,), (t,))[1])(stack)
    torch.testing.assert_close(slopes, matrix @ stack)
    _, pull = vjp(function, x)
    backs = torch.randn(4, NUM_DST, WIDTH).to(x)
    torch.testing.assert_close(vmap(pull)(backs)[0], matrix.T @ backs)
    batched = torch.autograd.grad(function(x.requires_grad_()), x, backs, is_grads_batched=True)[0]
    torch.testing.assert_close(batched, matrix.T @ backs)


def test_reverse_and_forward_jacobians_are_the_matrix(case, x):
    function, matrix = case
    reverse, forward = jacrev(function)(x), jacfwd(function)(x)
    torch.testing.assert_close(reverse, forward)
    for column in range(WIDTH):
        torch.testing.assert_close(reverse[:, column, :, column], matrix)
    hessian = jacfwd(jacrev(lambda z: function(z).pow(3).sum()))(x)
    oracle = jacfwd(jacrev(lambda z: (matrix @ z).pow(3).sum()))(x)
    torch.testing.assert_close(hessian, oracle)


def test_inside_a_network_forward_mode_equals_reverse_mode(block, x):
    inner = torch.nn.Linear(WIDTH, 4).double().to(x.device)

    def network(z):
        return aggregate(torch.tanh(inner(z)), block, reduce="mean").square().sum(dim=1)

    tangent = torch.randn_like(x)
    _, slope = jvp(network, (x,), (tangent,))
    torch.testing.assert_close(slope, (jacrev(network)(x) * tangent).sum(dim=(1, 2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("weighted", [False, True])
def test_dtype_is_kept(block, x, weight, dtype, weighted):
    x = x.to(dtype).requires_grad_()
    used = weight if weighted else None
    out = aggregate(x, block, weight=used, reduce="mean")
    assert out.dtype == dtype
    out.sum().backward()
    assert x.grad.dtype == dtype
    tolerance = {torch.bfloat16: 0.05, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    expected = dense(used, "mean", x.double()) @ x.detach().double()
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)


def test_under_autocast(block, x):
    linear = torch.nn.Linear(WIDTH, 4).to(x.device)
    x = x.float().requires_grad_()
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        out = aggregate(linear(x), block, reduce="mean")
        assert out.dtype == torch.bfloat16
        loss = aggregate(x, block).sum() + out.float().sum()
    loss.backward()
    assert x.grad.dtype == torch.float32
    assert linear.weight.grad.dtype == torch.float32
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(
    ("num_dst", "num_src", "width"), [(4, 5, 2), (0, 5, 2), (0, 0, 2), (4, 5, 0)]
)
def test_blocks_without_edges(num_dst, num_src, width):
    block = Block(torch.zeros(num_dst + 1, dtype=torch.int32), torch.zeros(0).int(), num_src)
    x = torch.randn(num_src, width, dtype=torch.float64, requires_grad=True)
    for reduce in ("sum", "mean"):
        out = aggregate(x, block, reduce=reduce)
        assert out.shape == (num_dst, width)
        assert not out.any()
        (grad,) = torch.autograd.grad(out.sum(), x)
        assert grad.shape == x.shape
        assert not grad.any()


def test_columns_of_a_strided_input(block, x):
    wide = torch.cat([x, x], dim=1)[:, ::2]
    assert not wide.is_contiguous()
    torch.testing.assert_close(aggregate(wide, block), dense(None, "sum", x) @ wide)


def test_no_gradient_flows_into_weights(block, x, weight):
    weight.requires_grad_()
    assert not aggregate(x, block, weight=weight).requires_grad


def test_shapes_are_checked(block, x, weight):
    with pytest.raises(ShapeError, match="num_src = 7"):
        aggregate(x[:-1], block)
    with pytest.raises(ShapeError, match="num_src = 7"):
        aggregate(x[:, 0], block)
    with pytest.raises(ShapeError, match="E = 9"):
        aggregate(x, block, weight=weight[:-1])
