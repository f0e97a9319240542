"""What needs an extra says so, and nothing else does."""

import subprocess
import sys

import pytest

from snnsim._core.optional import optional
from snnsim.errors import MissingPackageError

APPS = ("sklearn", "pandas", "joblib", "tqdm")
BLOCK = f"import sys; sys.modules.update(dict.fromkeys({APPS}))\n"


def run_python(code):
    done = subprocess.run([sys.executable, "-c", BLOCK + code], capture_output=True, text=True)
    return done.returncode, done.stderr.strip().rpartition("\n")[2]


def test_a_package_that_is_there_is_the_module_itself():
    assert optional("os.path", "apps").join("a", "b")


def test_a_missing_package_is_named_with_the_extra_that_brings_it():
    with pytest.raises(
        MissingPackageError, match=r"^nowhere is not installed; pip install 'snnsim\[apps\]'$"
    ) as caught:
        optional("nowhere.inner", "apps")
    assert isinstance(caught.value, ModuleNotFoundError)
    assert caught.value.name == "nowhere"


def test_an_import_that_fails_within_the_package_is_left_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import nowhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'nowhere'") as caught:
        optional("needy", "apps")
    assert not isinstance(caught.value, MissingPackageError)


def test_neurons_kernels_and_deployment_need_no_extra():
    code = """
import torch, snnsim
from snnsim import *
from snnsim import deploy, testing, training, viz

node = neurons.LIFNode(state_quant=quant.uniform(4))
net = torch.nn.Sequential(quant.QuantLinear(4, 3), node)
MultiStep(net)(torch.rand(5, 2, 4)).sum().backward()
deploy.to_grid(net, 12, input_shape=(4,), input_range=(0, 1))
deploy.lower(MultiStep(net), (4,), (0, 1))
"""
    assert run_python(code) == (0, "")


@pytest.mark.parametrize(
    ("code", "package"),
    [
        ("from snnsim.data import digits; digits(True)", "sklearn"),
        ("import snnsim.sweep", "pandas"),
        (
            "from snnsim.apps.runs import _workers\nwith _workers('loky', None, 1): pass",
            "joblib",
        ),
        (
            "from snnsim import data, training; import torch\n"
            "x = data.ImageDataset(torch.zeros(9, 1, 8, 8).byte(), torch.arange(9))\n"
            "training.Training(training.Config(), x, x).run_epoch()",
            "tqdm",
        ),
    ],
)
def test_what_needs_the_extra_names_it(code, package):
    status, error = run_python(code)
    assert status == 1
    assert error == (
        f"snnsim.errors.MissingPackageError: {package} is not installed; pip install 'snnsim[apps]'"
    )


def test_the_command_line_says_so_in_one_line(tmp_path):
    code = f"from snnsim.__main__ import main\nsys.exit(main(['demo', '--out', {str(tmp_path)!r}]))"
    assert run_python(code) == (
        2,
        "snnsim demo: sklearn is not installed; pip install 'snnsim[apps]'",
    )
