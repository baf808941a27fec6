"""Figures of joins: what is counted, and how it is told."""

import pytest
from bench.joins import parsed, report, spread
from bench.prober import latencies, percentile


def test_percentiles() -> None:
    """The 99th of a hundred is the largest but none; nothing gives zero."""
    values = [number / 100 for number in range(100)]
    assert (percentile(values, 0.5), percentile(values, 0.99)) == (0.5, 0.99)
    assert percentile([], 0.99) == 0.0


def test_only_requests_of_the_time_in_question_count() -> None:
    """Samples before and after are another figure's."""
    samples = [(float(moment), 0.001 * moment, 0.01) for moment in range(10)]
    found = latencies(samples, 3.0, 5.0)
    assert found["requests"] == 6
    assert found["read p50"] == pytest.approx(4.0)
    assert found["write p99"] == pytest.approx(10.0)


def test_a_report_names_failures_and_noise() -> None:
    """Each row says how many failed and what others used of the host."""
    text = report(
        {
            "crowd": {"machines": 200, "failed": ["a: why"], **spread([1.0, 2.0, 9.0]), "others": 0.5},
            "thousand": {
                "1000": {
                    **spread([0.5]), "ready": 1001, "renewed": 5000, "missed": 0, "slowest": 10.1,
                    "resident MiB": {"etcd": 80},
                },
                "others": 0.25,
            },
        }
    )  # fmt: skip
    assert "| 200 at once" in text
    assert "| 1.00    | 2.00     | 9.00   | 1      | 50%    |" in text
    assert "1000 nodes: 1001 ready at the end; 5000 leases renewed, 0 missed" in text


def test_an_unknown_measurement_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """It is said on the command line, not after minutes."""
    with pytest.raises(SystemExit):
        parsed(["--only", "crowd,nonsense"])
    assert "nonsense" in capsys.readouterr().err
