"""The loss of a fixed problem, step by step: a change of the code that is not meant to change training must keep it."""

import pytest
from toy_run import metrics, open_source, run_settings

from sleave.training.loop import train
from sleave.training.run import RunDirectory

CONSTRAINTS = {
    "none": {"kind": "none"},
    "selective": {"kind": "selective", "top": 0.1, "weight": 0.5},
    "full": {"kind": "full", "weight": 0.5},
}
LOSSES = {
    "none": [
        3.541084,
        2.910938,
        2.803150,
        3.334940,
        3.173152,
        4.865645,
        1.807402,
        3.780953,
        1.983942,
        3.206101,
        3.050298,
        2.410308,
        3.919266,
        3.022008,
        1.882464,
        1.796158,
        3.161698,
        2.562883,
        3.035756,
        4.491185,
    ],
    "selective": [
        7.034169,
        5.110051,
        6.030977,
        6.579549,
        6.543289,
        7.183681,
        4.916463,
        5.845884,
        5.307709,
        5.801192,
        5.972132,
        3.470686,
        6.725242,
        6.367505,
        4.944127,
        4.256469,
        5.339358,
        4.790906,
        5.383841,
        7.100904,
    ],
    "full": [
        8.268162,
        5.572302,
        7.391353,
        9.185375,
        9.457672,
        7.194828,
        5.576082,
        6.129913,
        7.140522,
        6.876748,
        6.518071,
        3.323708,
        8.297161,
        6.461405,
        6.380416,
        5.239938,
        4.094984,
        4.802270,
        5.388656,
        7.583501,
    ],
}


@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_loss_curve(kind, store, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.begin({})
    train(run_settings(constraint=CONSTRAINTS[kind], training={"steps": 20}), open_source(store), run)
    assert [m["loss"] for m in metrics(run.path)] == pytest.approx(LOSSES[kind], rel=1e-4)
