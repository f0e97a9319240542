import pytest
import torch

from snnsim.__main__ import main
from snnsim.apps.cli import doctor
from snnsim.kernels.cpu import host


def test_measures_the_precision_setting_and_puts_it_back():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        ratio, error, error_medium = doctor.measure_precision(rows=2, rounds=1)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert ratio > 0
    # float32 rounds to 6e-8; the other setting may go down to bfloat16, 4e-3
    assert 0 < error < 1e-5
    assert 0 < error_medium < 1e-2


def test_says_which_line_helps_and_what_it_costs():
    line = doctor.precision_line(1.94, 2e-7, 4e-3)
    assert (
        '1.9x as fast with torch.set_float32_matmul_precision("medium"), relative error 4e-03'
        " instead of 2e-07" in line
    )


def test_says_so_where_nothing_is_gained():
    line = doctor.precision_line(1.02, 2e-7, 2e-7)
    assert "as fast as it gets" in line
    assert "1.02x" in line


def test_report_has_a_line_about_products(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "measure_precision", lambda: (2.0, 2e-7, 2e-7))
    assert main(["doctor"]) == 0
    assert "products       float32 on the CPU 2.0x as fast" in capsys.readouterr().out


@pytest.mark.slow
def test_warm_up_compiles_the_kernels_or_says_why_not(capsys, monkeypatch):
    assert main(["doctor", "--warm-up"]) == 0
    assert "the CPU kernels are compiled and on disk" in capsys.readouterr().out
    monkeypatch.setattr(host, "why_not", lambda: "numba is not installed; pip install numba")
    assert main(["doctor", "--warm-up"]) == 0
    assert "warm-up        numba is not installed" in capsys.readouterr().out
