"""Fixtures of the benchmarks. ``pytest benchmarks`` measures; ``--benchmark-disable`` only runs them, briefly."""

import pytest
from workloads import WORKLOADS, Workload


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("python_files", "bench_*.py")
    config.addinivalue_line("filterwarnings", "ignore")  # other libraries' warnings are not our errors


@pytest.fixture(params=WORKLOADS)
def workload(request: pytest.FixtureRequest) -> Workload:
    """Each workload; shortened when nothing is measured."""
    full = WORKLOADS[request.param]
    return full.shortened() if request.config.getoption("benchmark_disable") else full
