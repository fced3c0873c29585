"""Estimates learn from the jobs that workers measured, on a real broker."""

from __future__ import annotations

import math

import pytest

from worker.jobs import JobQueue

STL = {"kind": "generation", "model_id": "celegans", "formats": ["stl"]}


def test_without_measurements_an_estimate_stays_and_its_spread_is_wide(jobs: JobQueue) -> None:
    timing = jobs.timings.expect(**STL, estimated_s=10.0)
    assert (timing.expected, timing.jobs) == (10.0, 0)
    assert timing.low == pytest.approx(2.5)
    assert timing.high == pytest.approx(40.0)


def test_measured_jobs_correct_an_estimate_and_narrow_its_spread(jobs: JobQueue) -> None:
    highs = []
    for number in range(1, 7):
        jobs.timings.record(**STL, estimated_s=2.0 * number, took_s=6.0 * number)
        timing = jobs.timings.expect(**STL, estimated_s=10.0)
        assert (timing.expected, timing.jobs) == (pytest.approx(30.0), number)
        highs.append(timing.high)
    assert highs == sorted(highs, reverse=True)
    assert timing.low * timing.high == pytest.approx(30.0**2)


def test_the_spread_holds_what_was_measured(jobs: JobQueue) -> None:
    for step in range(20):
        jobs.timings.record(**STL, estimated_s=1.0, took_s=math.exp(0.5 if step % 2 else -0.5))
    timing = jobs.timings.expect(**STL, estimated_s=1.0)
    assert timing.expected == pytest.approx(1.0, rel=0.1)
    assert timing.low < math.exp(-0.5)
    assert timing.high > math.exp(0.5)


def test_the_latest_jobs_count_most(jobs: JobQueue) -> None:
    for took_s in [1.0] * 30 + [4.0] * 30:
        jobs.timings.record(**STL, estimated_s=1.0, took_s=took_s)
    assert jobs.timings.expect(**STL, estimated_s=1.0).expected == pytest.approx(4.0, rel=0.1)


def test_the_most_particular_group_that_was_measured_is_taken(jobs: JobQueue) -> None:
    jobs.timings.record(**STL, estimated_s=1.0, took_s=2.0)
    other_formats = {**STL, "formats": ["png", "stl"]}
    assert jobs.timings.expect(**other_formats, estimated_s=1.0).expected == pytest.approx(2.0)
    assert jobs.timings.expect(**{**STL, "model_id": "a549"}, estimated_s=1.0).expected == pytest.approx(2.0)
    training = {"kind": "training", "model_id": "", "formats": []}
    assert jobs.timings.expect(**training, estimated_s=1.0).jobs == 0
    jobs.timings.record(**training, estimated_s=10.0, took_s=30.0)
    jobs.timings.record(**training, estimated_s=1.0, took_s=3.0)
    corrected = jobs.timings.expect(**training, estimated_s=5.0)
    assert (corrected.expected, corrected.jobs) == (pytest.approx(15.0), 2)
    jobs.timings.record(**{**STL, "formats": ["stl", "png"]}, estimated_s=1.0, took_s=8.0)  # in whatever order
    assert jobs.timings.expect(**other_formats, estimated_s=1.0).expected == pytest.approx(8.0)
    assert jobs.timings.expect(**STL, estimated_s=1.0).expected == pytest.approx(2.0)
