import os
import subprocess
import sys
import time

import pytest
import torch

from benchmarks import gpu


@pytest.fixture
def run(monkeypatch, capsys):
    """`run("--quick")`: the exit code of `make bench-gpu` and what it prints."""

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["gpu", *options])
        code = gpu.main()
        return code, capsys.readouterr().out

    return run


def test_bench_gpu_when_there_is_no_gpu_then_it_says_so_in_one_line_and_measures_nothing(
    run, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, said = run()
    assert code == 2
    assert said.splitlines() == [
        "no CUDA GPU here: nothing measured (--cpu --quick runs the code on a CPU)"
    ]


def test_bench_gpu_when_the_time_is_over_then_what_was_measured_stands_and_the_rest_is_named(
    run, monkeypatch
):
    def measure_for_ever():
        time.sleep(60)

    parts = {
        "first": lambda: gpu.Row(300.0, 100.0, 3.0, 2.5, 3.5),
        "second": measure_for_ever,
        "third": measure_for_ever,
    }
    monkeypatch.setattr(gpu, "_list_parts", lambda _amount, _device: parts)
    monkeypatch.setattr(gpu, "LIMIT_S", 1)
    threads = torch.get_num_threads()
    try:
        code, said = run("--cpu", "--quick")
    finally:
        torch.set_num_threads(threads)
    assert code == 1
    assert "stopped after 1 s; not measured: second, third" in said
    (row,) = [line for line in said.splitlines() if line.startswith("first  ")]
    assert row.split() == ["first", "300", "100", "3.00", "2.50", "to", "3.50"]


def test_bench_gpu_when_full_then_it_trains_at_three_sizes_scores_twice_and_makes_batches():
    assert [*gpu._list_parts(gpu.FULL, torch.device("cuda"))] == [
        "training at 64 px", "training at 96 px", "training at 224 px",
        "scoring at 64 px, fp32", "scoring at 64 px, bf16", "batches at 64 px",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bench_gpu_when_quick_on_a_cpu_then_every_part_is_measured_against_its_peer(project_root):
    paths = f"{project_root / 'src'}{os.pathsep}{project_root}"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--cpu", "--quick"], cwd=project_root,
        env=os.environ | {"PYTHONPATH": paths, "OMP_WAIT_POLICY": "passive"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    table = done.stdout.splitlines()[-5:-1]
    assert [line[:24].strip() for line in table] == [
        "training at 32 px", "scoring at 32 px, fp32", "scoring at 32 px, bf16", "batches at 32 px",
    ]  # fmt: skip
    assert all(float(line[44:52]) > 0 for line in table)
