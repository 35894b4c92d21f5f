"""C: the written files must compile without a warning and compute what the models compute."""

import ctypes
import re
import shutil
import subprocess

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from test_hidden_layers import KINDS, NORMALIZATIONS, trained

from fastmlp import MLPClassifier, MLPRegressor, Network, _core
from fastmlp.export import to_c

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler: cc, gcc and clang are not on the path")
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
RANDOM = np.random.RandomState(0)
X = RANDOM.randn(90, 5).astype(np.float32)
CLASS_NUMBERS = np.digitize(X[:, 0], [-0.5, 0.5])  # easy to learn: every class is predicted
NASTY = np.array(['"a\\', "??/ ?", "ä1*/\n"])
TARGETS = {
    "numbers": np.array([-(2**63), 0, 2**40])[CLASS_NUMBERS],
    "two_numbers": CLASS_NUMBERS % 2,
    "strings": NASTY[CLASS_NUMBERS],
    "two_strings": NASTY[CLASS_NUMBERS % 2],
    "bools": CLASS_NUMBERS > 1,
    "floats": np.array([-1.0, 2.0])[CLASS_NUMBERS % 2],
    "one_class": np.full(90, 3),
}
LABEL_TYPES = {"i": ctypes.c_longlong, "U": ctypes.c_char_p, "b": ctypes.c_int, "f": ctypes.c_double}


def models():
    """Models of all kinds, by the names that they have in C."""
    for activation in _core.activations():
        yield f"scalar_{activation}", one_activation(activation)
        yield f"net_{activation}", Network([5, 9, 8, 7, 2], activation, "squared_error", random_state=1)
    for loss in _core.losses():
        n_outputs = 3 * _core.loss_outputs(loss)[0]
        yield f"loss_{loss}", Network([5, n_outputs], loss=loss, random_state=2)
    quantiles = {"quantile": [0.05, 0.25, 0.5, 0.95]}
    yield "quantiles", Network([5, 8], loss="quantile", random_state=2, loss_parameters=quantiles)
    yield "variance", Network([5, 4], loss="gaussian_nll", random_state=2, loss_parameters={"eps": 1})
    for kind, y in TARGETS.items():
        yield kind, MLPClassifier((8, 7), random_state=0, max_iter=99, learning_rate_init=0.02).fit(X.astype(float), y)
    yield "labels", MLPClassifier((8,), random_state=0, max_iter=3).fit(X, RANDOM.rand(90, 4) > 0.5)
    yield "wide", MLPClassifier((100,), random_state=0, max_iter=3).fit(RANDOM.rand(60, 64), np.arange(60) % 10)
    for number, kind in enumerate(KINDS):
        yield f"layers_{number}", trained(*kind)
    deep = {"normalization": "layer_norm", "residual": True, "dropout": 0.1, "max_iter": 3, "random_state": 0}
    yield "deep", make_pipeline(StandardScaler(), MLPClassifier((9, 9, 4), **deep)).fit(2 * X + 3, CLASS_NUMBERS)
    scaler = make_pipeline(StandardScaler(), MinMaxScaler())
    yield "scaled", make_pipeline(*scaler, MLPClassifier(max_iter=3, random_state=0)).fit(3 * X + 1, CLASS_NUMBERS)
    yield "number", MLPRegressor("poisson", (6, 5), ["mish", "elu"], random_state=0, max_iter=3).fit(X, X[:, 0] ** 2)


def one_activation(activation):
    """The network whose output is the activation of its input."""
    network = Network([1, 1, 1], activation, "squared_error")
    network.parameters = [1, 1, 0, 0]
    return network


MODELS = dict(models())


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """All models in one library: no name may clash."""
    folder = tmp_path_factory.mktemp("c")
    sources = [folder / f"{name}.c" for name in MODELS]
    for path, model in zip(sources, MODELS.values(), strict=True):
        to_c(model, path, name=path.stem)
    for path in sources[:3]:
        subprocess.run([COMPILER, *STRICT, "-Wconversion", "-c", path, "-o", path.with_suffix(".o")], check=True)
    together = folder / "together.c"
    together.write_text("".join(f'#include "{path.name}"\n' for path in sources))
    subprocess.run([COMPILER, *STRICT, "-O2", "-shared", "-fPIC", together, "-o", folder / "all.so", "-lm"], check=True)
    return ctypes.CDLL(folder / "all.so"), folder


def in_c(library, name, X, n_outputs):
    predict = library[f"{name}_predict"]
    predict.restype = None
    out = np.full((len(X), n_outputs), np.nan, np.float32)
    for row, place in zip(np.ascontiguousarray(X, np.float32), out, strict=True):
        predict(ctypes.c_void_p(row.ctypes.data), ctypes.c_void_p(place.ctypes.data))
    return out


def in_python(model, X):
    answers = {MLPRegressor: "predict", Network: "forward"}
    return getattr(model, answers.get(type(model), "predict_proba"))(X).reshape(len(X), -1)


@needs_compiler
@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("scalar_")])
def test_outputs(name, library):
    model = MODELS[name]
    rows = X if name != "wide" else RANDOM.rand(20, 64).astype(np.float32)
    expected = in_python(model, rows.astype(np.float64))
    np.testing.assert_allclose(in_c(library[0], name, rows, expected.shape[1]), expected, rtol=1e-6, atol=1e-6)


@needs_compiler
def test_activations_are_accurate_from_tail_to_tail(activation, library):
    z = np.concatenate([np.linspace(-12, 12, 2001), [-1e-5, 1e-5, 0, -90, 90]]).astype(np.float32)[:, None]
    expected = _core.apply_activation(activation, z.ravel().astype(float))[0]
    out = in_c(library[0], f"scalar_{activation}", z, 1)[:, 0]
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=2e-8)


@needs_compiler
@pytest.mark.parametrize("kind", TARGETS)
def test_labels(kind, library):
    model, classify, label = MODELS[kind], library[0][f"{kind}_class"], library[0][f"{kind}_label"]
    label.restype = LABEL_TYPES[model.classes_.dtype.kind]
    expected = model.predict(X.astype(float))
    assert set(expected) == set(model.classes_)
    for row, answer in zip(X, expected, strict=True):
        decoded = label(ctypes.c_void_p(row.ctypes.data))
        assert (decoded.decode() if isinstance(decoded, bytes) else decoded) == answer
        assert model.classes_[classify(ctypes.c_void_p(row.ctypes.data)) % len(model.classes_)] == answer


@needs_compiler
def test_many_labels(library):
    labels = np.full((90, 4), -1, np.int32)
    for row, place in zip(X, labels, strict=True):
        library[0].labels_labels(ctypes.c_void_p(row.ctypes.data), ctypes.c_void_p(place.ctypes.data))
    np.testing.assert_array_equal(labels, MODELS["labels"].predict(X))


@needs_compiler
def test_sanitizers_find_nothing(library):
    """Also for inputs that overflow: an answer may be infinite or NaN, but nothing is undefined."""
    folder = library[1]
    calls = "".join(
        f"    {name}_predict(x, out); sum += out[{name}_n_outputs - 1];\n"
        + (f"    sum += (float){name}_class(x); (void){name}_label(x);\n" if name in TARGETS else "")
        for name in MODELS
    )
    (folder / "main.c").write_text(
        f"""#include "together.c"
int main(void) {{
  float x[64], out[16], sum = 0;
  int labels[4], i, k;
  for (i = -40; i < 40; ++i) {{
    for (k = 0; k < 64; ++k) x[k] = (float)(k % 3 - 1) * (float)i * (i % 2 ? 1e37f : 0.7f);
    labels_labels(x, labels);
{calls}  }}
  return sum == 12345.0f;
}}
"""
    )
    build = [COMPILER, *STRICT, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    if subprocess.run(
        [*build, "-x", "c", "-", "-o", folder / "empty"], input=b"int main(void) { return 0; }"
    ).returncode:
        pytest.skip("the C compiler has no sanitizers")
    subprocess.run([*build, folder / "main.c", "-o", folder / "main", "-lm"], check=True)
    subprocess.run([folder / "main"], check=True)


@needs_compiler
@pytest.mark.parametrize("name", ["wide", "number", "net_tanh", "scaled", f"layers_{len(KINDS) - 1}", "deep"])
def test_eight_bits(name, library, tmp_path):
    model = MODELS[name]
    rows = RANDOM.rand(200, 64 if name == "wide" else 5)
    source = to_c(model, tmp_path / "small.c", name="small", weights="int8", calibration=rows)
    stated = float(source.split("calibration rows: ")[1].split()[0])
    subprocess.run(
        [COMPILER, *STRICT, "-shared", "-fPIC", tmp_path / "small.c", "-o", tmp_path / "small.so", "-lm"], check=True
    )
    expected = in_python(model, rows)
    error = np.abs(in_c(ctypes.CDLL(tmp_path / "small.so"), "small", rows, expected.shape[1]) - expected)
    if isinstance(model, MLPRegressor | Network):
        error /= np.ptp(expected, axis=0)
    assert error.max() == pytest.approx(stated, rel=0.01, abs=1e-6)
    assert 0 < stated < 0.05
    with pytest.raises(ValueError, match=rf"makes an error of {stated:.3g} on the calibration rows; max_error=1e-06"):
        to_c(model, weights="int8", calibration=rows, max_error=1e-6)


def test_eight_bits_state_the_room_saved():
    source = to_c(Network([10, 4, 2], random_state=0), weights="int8", calibration=RANDOM.rand(5, 10))
    assert "72 bytes in place of 192." in source  # 48 weights, 6 scales
    assert "static const signed char model_weights_0[40]" in source


def test_eight_bits_of_a_neuron_without_weights():
    network = Network([3, 2], loss="squared_error")
    network.weights = [[[0, 0, 0], [127, -1, 64]]]
    source = to_c(network, weights="int8", calibration=np.eye(3))
    assert "static const signed char model_weights_0[6] = {\n  0, 127, 0, -1, 0, 64\n};" in source
    assert "Largest error on 3 calibration rows: 0 of the range" in source


def test_files_say_how_to_use_them_and_nothing_about_their_maker(tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(X, columns=["width */ mm", "é", "c", "d", "e"])
    model = MLPRegressor(hidden_layer_sizes=(3,), max_iter=2).fit(frame, X[:, 0])
    source = to_c(model, tmp_path / "m.c", name="petals")
    assert (tmp_path / "m.c").read_text() == source == to_c(model, name="petals")
    comment = source.split("*/")[0]
    assert "MLPRegressor: 5 -> 3 relu -> 1 identity" in comment
    assert "cc -std=c99 -O2 -c petals.c" in comment
    assert "x[0] width _/ mm\n *   x[1] _\n" in comment
    assert str(tmp_path) not in source
    assert "malloc" not in source


def test_only_promised_functions_of_the_c_library_are_called(activation):
    source = to_c(Network([2, 3, 2], activation, "log_loss"))
    called = set(re.findall(r"\b((?!model_)\w+)\(", source.split("#include <math.h>")[1])) - {"for"}
    assert "expf" in called  # by softmax
    assert called <= {"expf", "tanhf", "fabsf", *["erfcf"] * (activation == "gelu")}


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_normalization_calls_a_root_at_most(normalization):
    source = to_c(trained(normalization, residual=True))
    assert "malloc" not in source
    of_rows = normalization != "batch_norm"  # the other statistics are known when the file is written
    called = set(re.findall(r"\b((?!model_)\w+f)\(", source)) - {"tanhf"}
    assert called == ({"sqrtf"} if of_rows else set())


def test_nothing_is_kept_between_calls():
    for model in (MODELS["strings"], MODELS["labels"], MODELS["scaled"]):
        tables = [line for line in to_c(model).splitlines() if re.match(r"(static|\w+ \w+\[).*=", line)]
        assert len(tables) >= 4
        assert all(line.startswith("static const ") for line in tables)


@pytest.mark.parametrize("name", ["", "1a", "a-b", "double", "é", "a b"])
def test_names_that_c_does_not_allow(name):
    with pytest.raises(ValueError, match="name must be an identifier of C"):
        to_c(Network([1, 1]), name=name)


def test_parameters_that_make_no_sense():
    network = Network([2, 1])
    with pytest.raises(ValueError, match="unknown weights 'int4'; valid names: 'float32', 'int8'"):
        to_c(network, weights="int4")
    with pytest.raises(ValueError, match="calibration and max_error are only for weights='int8'"):
        to_c(network, calibration=[[1, 2]])
    with pytest.raises(ValueError, match=r"needs calibration: rows of shape \(n_samples, n_features\)"):
        to_c(network, weights="int8")
    with pytest.raises(ValueError, match="at least one row"):
        to_c(network, weights="int8", calibration=np.empty((0, 2)))
    with pytest.raises(ValueError, match=r"must have shape \(n_samples, 2\)"):
        to_c(network, weights="int8", calibration=[[1, 2, 3]])
    network.biases = [[1e39]]
    with pytest.raises(ValueError, match="not a finite float of 32 bits"):
        to_c(network)


def test_labels_that_c_cannot_hold():
    model = MLPClassifier((2,), max_iter=2).fit(X, np.array([0, 2**63], np.uint64)[CLASS_NUMBERS % 2])
    with pytest.raises(ValueError, match="class label 9223372036854775808 does not fit into 64 bits"):
        to_c(model)
    model.classes_ = np.array([None, 1j], object)
    with pytest.raises(TypeError, match="class labels must be integers, floats, bools or strings, got object"):
        to_c(model)


def test_an_activation_without_a_line_in_the_table(monkeypatch):
    from fastmlp.export import _functions

    monkeypatch.delitem(_functions.FUNCTIONS, "tanh")
    with pytest.raises(NotImplementedError, match="'tanh' cannot be exported yet; activations that can: identity"):
        to_c(Network([1, 1, 1], "tanh"))
