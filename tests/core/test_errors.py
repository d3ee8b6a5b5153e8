"""Typed errors and the exit codes they end a command with."""

import inspect
import pickle

import pytest

from gnn_mtl._core import errors

ERRORS = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, errors.GnnMtlError)
]
CODES = {
    errors.UsageError: 2, errors.DataError: 3, errors.StorageError: 3,
    errors.TrainingStoppedError: 4, errors.InterruptedRunError: 130,
}  # fmt: skip


@pytest.mark.parametrize("error", ERRORS)
def test_exit_codes_follow_the_family(error):
    families = [code for family, code in CODES.items() if issubclass(error, family)]
    assert families == ([] if error is errors.GnnMtlError else [error("text").exit_code])
    assert errors.GnnMtlError.exit_code == 1
    assert error.__doc__


@pytest.mark.parametrize("error", ERRORS)
def test_the_message_is_all_there_is_and_survives_a_process_pool(error):
    """A sweep with several jobs sends errors from one process to another."""
    made = error("expected, found, do")
    again = pickle.loads(pickle.dumps(made))  # noqa: S301 - our own object
    assert type(again) is error
    assert str(again) == str(made) == "expected, found, do"
    assert again.exit_code == made.exit_code


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_an_interruption_carries_the_signal(number, code):
    error = errors.InterruptedRunError("stopped", signal_number=number)
    assert error.exit_code == code
    assert pickle.loads(pickle.dumps(error)).exit_code == code  # noqa: S301 - our own object
    assert errors.InterruptedRunError.exit_code == 130


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.UsageError, ValueError), (errors.MissingExtraError, ImportError),
        (errors.DataError, ValueError), (errors.DatasetNotFoundError, FileNotFoundError),
        (errors.SealedLabelsError, PermissionError), (errors.StorageError, OSError),
        (errors.TrainingStoppedError, RuntimeError),
    ],
)  # fmt: skip
def test_callers_may_catch_what_python_would_raise(error, builtin):
    with pytest.raises(builtin):
        raise error("text")


def test_warnings_are_shown_by_default():
    warnings = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, Warning)
    ]
    assert len(warnings) == 5
    for warning in warnings:
        assert issubclass(warning, errors.GnnMtlWarning)
        assert issubclass(warning, UserWarning)
        assert warning.__doc__
