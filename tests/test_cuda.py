"""The GPU engine without a GPU: whether it is there, what is said if it is not, and what estimators do then."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor, _core, _cuda

PACKAGE = Path(_core.__file__).parent
LIBRARY = PACKAGE / _cuda.LIBRARY
random = np.random.RandomState(0)
X = random.randn(60, 5)
y = X @ random.randn(5) + 1
QUICK = {"hidden_layer_sizes": (6,), "max_iter": 3, "random_state": 0, "tol": 0}
# of this machine, or of the package nvidia-cuda-cuobjdump
WHERE_TOOLS_ARE = os.pathsep.join([os.environ["PATH"], os.path.join(sysconfig.get_path("purelib"), "nvidia/cu13/bin")])
CUOBJDUMP = shutil.which("cuobjdump", path=WHERE_TOOLS_ARE)
built = pytest.mark.skipif(not LIBRARY.exists(), reason="built without the GPU engine")


def without_gpu(monkeypatch, tmp_path, state="not_built"):
    """Have no engine at all, or one that reports a state."""
    if state == "not_built":
        monkeypatch.setenv("FASTMLP_CUDA_LIBRARY", str(tmp_path / "nothing.so"))
        return
    found = {
        "state": state,
        "detail": "compute capability 7.5" if state == "device_too_old" else "some detail",
        "engine": "cuda",
        "driver": 12040,
        "runtime": 13000,
        "cublas": 0,
        "n_devices": 1,
        "device": "Some GPU",
        "capability": (7, 5),
        "total_bytes": 2**34,
        "free_bytes": 2**33,
    }
    monkeypatch.setenv("FASTMLP_CUDA_LIBRARY", os.devnull)
    monkeypatch.setattr(_core, "cuda_status", lambda library, device, cublas: found)


# --- the status -----------------------------------------------------------------------------------------------------


def test_without_the_library(monkeypatch, tmp_path):
    without_gpu(monkeypatch, tmp_path)
    status = fastmlp.cuda_status()
    assert not status
    assert status.state == "not_built"
    assert str(tmp_path / "nothing.so") in str(status)
    assert "FASTMLP_CUDA=ON" in str(status)
    config = fastmlp.show_config("dicts")
    assert config["fastmlp"]["cuda"] is False
    assert config["cuda"] == {"state": "not_built", "text": status.text}


REMEDIES = {
    "no_driver": "Install one of version 580",
    "driver_too_old": "knows CUDA 12.4, and the GPU engine needs 13.0. Install driver 580",
    "no_device": "CUDA_VISIBLE_DEVICES",
    "device_too_old": "Some GPU has compute capability 7.5, and the GPU engine needs 8.0",
    "no_cublas": "pip install 'nvidia-cublas==13.*'",
    "error": "some detail",
}


@pytest.mark.parametrize("state", REMEDIES)
def test_every_state_has_its_remedy(monkeypatch, tmp_path, state):
    without_gpu(monkeypatch, tmp_path, state)
    status = fastmlp.cuda_status()
    assert (bool(status), status.state) == (False, state)
    assert REMEDIES[state] in str(status)
    with pytest.raises(RuntimeError, match=re.escape(f"device='cuda' cannot be used: {status}")):
        MLPRegressor(device="cuda").fit(X, y)


def test_every_state_is_explained():
    assert _cuda._EXPLANATIONS.keys() == {"ok", "not_built", "unusable", *REMEDIES}


def test_a_gpu_that_is_ready(monkeypatch, tmp_path):
    without_gpu(monkeypatch, tmp_path, "ok")
    status = fastmlp.cuda_status()
    assert status
    assert str(status) == "ready: Some GPU, compute capability 7.5, 8.0 of 16.0 GiB free, CUDA 13.0, cuBLASLt 0"


@pytest.mark.parametrize("name", [os.devnull, __file__], ids=["empty", "text"])
def test_what_is_no_library(monkeypatch, name):
    monkeypatch.setenv("FASTMLP_CUDA_LIBRARY", name)
    status = fastmlp.cuda_status()
    assert status.state == "unusable"
    assert "file too short" in str(status) or "invalid ELF header" in str(status)


def test_a_library_of_something_else(monkeypatch):
    monkeypatch.setenv("FASTMLP_CUDA_LIBRARY", _core.__file__)
    assert "is no GPU engine of fastmlp" in str(fastmlp.cuda_status())


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_a_library_of_another_build(monkeypatch, tmp_path):
    source, library = tmp_path / "other.c", tmp_path / "other.so"
    source.write_text('const char* fastmlp_cuda_build(void) { return "0.0.9 of yesterday"; }\n')
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    monkeypatch.setenv("FASTMLP_CUDA_LIBRARY", str(library))
    status = fastmlp.cuda_status()
    assert status.state == "unusable"
    assert re.search(r"is of the build '0\.0\.9 of yesterday', but this module of '", str(status))


def test_a_device_has_a_number():
    with pytest.raises(ValueError, match="device must not be negative, got -1"):
        fastmlp.cuda_status(-1)


# --- where cuBLASLt is looked for -----------------------------------------------------------------------------------


def test_cublas_by_its_path_alone(monkeypatch):
    monkeypatch.setenv("FASTMLP_CUBLASLT", "/somewhere/libcublasLt.so.13")
    assert _cuda.cublas_names() == ["/somewhere/libcublasLt.so.13"]


def test_cublas_of_its_package_comes_first(monkeypatch, tmp_path):
    monkeypatch.delenv("FASTMLP_CUBLASLT", raising=False)
    wheel = tmp_path / "site" / "nvidia" / "cu13" / "lib"
    conda, toolkit = tmp_path / "conda" / "lib", tmp_path / "cuda" / "lib64"
    for folder in (wheel, conda, toolkit):
        folder.mkdir(parents=True)
        (folder / "libcublasLt.so.13").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    for module in [name for name in sys.modules if name.split(".")[0] == "nvidia"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setenv("CONDA_PREFIX", str(conda.parent))
    monkeypatch.setenv("CUDA_HOME", str(toolkit.parent))
    names = _cuda.cublas_names()
    places = [str(wheel / "libcublasLt.so.13"), str(conda / "libcublasLt.so.13"), "libcublasLt.so.13"]
    assert [name for name in names if name in places] == places
    assert names[-1] == str(toolkit / "libcublasLt.so.13")
    assert names.index("libcublasLt.so.13") + 1 == names.index("libcublasLt.so.12")


# --- estimators -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CUDA", "cuda:-1", "cpu:0", ""])
def test_unknown_devices(device):
    with pytest.raises(ValueError, match=r"device must be 'cpu', 'cuda', 'cuda:N' .* got " + re.escape(repr(device))):
        MLPRegressor(device=device).fit(X, y)


def test_parameters_of_the_wrong_kind():
    with pytest.raises(ValueError, match="The 'device' parameter of MLPRegressor must be"):
        MLPRegressor(device=0).fit(X, y)
    with pytest.raises(ValueError, match="The 'precision' parameter of MLPRegressor must be"):
        MLPRegressor(precision="fp16").fit(X, y)


def test_the_cpu_has_one_precision():
    with pytest.raises(ValueError, match="precision='tf32' is for a GPU: device='cpu' computes in 'ieee'"):
        MLPRegressor(precision="tf32").fit(X, y)


def test_nothing_is_lost_without_a_gpu(monkeypatch, tmp_path):
    without_gpu(monkeypatch, tmp_path)
    model = MLPRegressor(**QUICK).fit(X, y)
    before, predictions = dict(vars(model)), model.predict(X)
    model.set_params(device="cuda")
    for attempt in (model.fit, model.partial_fit):
        with pytest.raises(RuntimeError, match="built without its GPU engine"):
            attempt(X[:, :3], y)
    assert vars(model) == {**before, "device": "cuda"}
    np.testing.assert_array_equal(model.predict(X), predictions)  # on the CPU


@pytest.mark.parametrize(
    ("settings", "rows", "what"),
    [
        ({"solver": "lbfgs"}, X, "solver 'lbfgs'"),
        ({"loss": lambda y, z, w: (0.0, z)}, X, "custom losses"),
        ({}, "sparse", "sparse X"),
    ],
    ids=["lbfgs", "loss", "sparse"],
)
def test_what_the_engine_lacks(monkeypatch, tmp_path, settings, rows, what):
    without_gpu(monkeypatch, tmp_path, "ok")
    if isinstance(rows, str):
        rows = pytest.importorskip("scipy.sparse").csr_matrix(X)
    with pytest.raises(ValueError, match=re.escape(f"device='cuda:0' has no {what}: use device='cpu'")):
        MLPRegressor(**QUICK | settings, device="cuda:0").fit(rows, y)


def test_auto_takes_the_cpu_for_small_work(capsys):
    model = MLPRegressor(**QUICK, device="auto", verbose=True).fit(X, y)
    assert capsys.readouterr().out.startswith("device='auto': the CPU, which may take")
    plain = MLPRegressor(**QUICK).fit(X, y)
    np.testing.assert_array_equal(model.coefs_[0], plain.coefs_[0])


def test_auto_says_why_it_does_not_take_a_gpu(monkeypatch, tmp_path, capsys):
    without_gpu(monkeypatch, tmp_path)
    monkeypatch.setattr(_cuda, "_CPU_RATE", 1.0)  # so slow that any GPU would be better
    MLPClassifier(**QUICK, device="auto", verbose=True).fit(X, y > 1)
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "device=" in line] == [f"device='auto': the CPU, as {fastmlp.cuda_status()}"]
    MLPRegressor(**QUICK | {"solver": "lbfgs"}, device="auto", verbose=True).fit(X, y)
    assert "the CPU, as the GPU engine has no solver 'lbfgs'" in capsys.readouterr().out


def work(units, batch_size, n_batches, max_iter=10):
    return _cuda.Work((784, units, units, 10), batch_size, n_batches, max_iter)


def test_the_cost_model_has_the_right_order():
    """Small work belongs to the CPU, large to the GPU, and more threads move the border."""
    for n_threads in (1, 64):
        on_cpu, on_gpu = _cuda.estimated_seconds(work(32, 64, 20), n_threads)
        assert on_cpu < on_gpu
        on_cpu, on_gpu = _cuda.estimated_seconds(work(1024, 1024, 1000), n_threads)
        assert on_cpu > on_gpu
    two_threads, _ = _cuda.estimated_seconds(work(256, 128, 100), 2)
    one_thread, _ = _cuda.estimated_seconds(work(256, 128, 100), 1)
    assert one_thread == 2 * two_threads
    assert work(256, 128, 100).operations == 6 * 128 * (784 * 256 + 256 * 256 + 256 * 10)


# --- the library ----------------------------------------------------------------------------------------------------


@built
def test_it_opens_without_a_driver():
    """And says what it finds: on a machine with a GPU that may be anything, but never an error without a name."""
    status = fastmlp.cuda_status()
    assert status.state in _cuda._EXPLANATIONS.keys() - {"not_built", "unusable", "error"}
    assert status.details["engine"] == "cuda"
    assert status.details["runtime"] >= 13000


@built
@pytest.mark.skipif(not shutil.which("readelf"), reason="readelf is not installed")
def test_it_needs_no_cuda_library():
    lines = subprocess.run(["readelf", "-d", LIBRARY], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"NEEDED.*\[(.+?)\]", lines))
    allowed = {
        "libstdc++.so.6",
        "libm.so.6",
        "libgcc_s.so.1",
        "libc.so.6",
        "libdl.so.2",
        "libpthread.so.0",
        "librt.so.1",
    }
    assert needed <= allowed | {"ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
    symbols = subprocess.run(["nm", "-D", "--defined-only", LIBRARY], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r" T (\w+)", symbols)) == {"fastmlp_cuda_build", "fastmlp_cuda_api"}


@built
def test_it_is_small():
    assert LIBRARY.stat().st_size < 10_000_000


@built
@pytest.mark.skipif(not CUOBJDUMP, reason="cuobjdump is not installed")
def test_it_holds_code_for_the_promised_gpus():
    def architectures(kind):
        listed = subprocess.run([CUOBJDUMP, f"--list-{kind}", LIBRARY], capture_output=True, text=True, check=True)
        return set(re.findall(r"\.(sm_\d+a?)\.", listed.stdout))

    assert architectures("elf") >= {"sm_80", "sm_90"}
    assert "sm_90" in architectures("ptx")
