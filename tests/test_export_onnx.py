"""ONNX: onnxruntime must answer what the models answer."""

import sys

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, PolynomialFeatures, RobustScaler, StandardScaler
from test_hidden_layers import KINDS, trained

from fastmlp import MLPClassifier, MLPRegressor, Network, _core
from fastmlp.export import register_skl2onnx, to_onnx

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

CLOSE = {"float32": {"rtol": 2e-6, "atol": 2e-6}, "float64": {"rtol": 1e-12, "atol": 1e-13}}
RANDOM = np.random.RandomState(0)
X = RANDOM.randn(90, 5)
CLASS_NUMBERS = np.digitize(X[:, 0], [-0.5, 0.5])  # easy to learn: every class is predicted
TARGETS = {
    "two numbers": np.array([-7, 2**40])[CLASS_NUMBERS % 2],
    "three numbers": CLASS_NUMBERS * 10,
    "three strings": np.array(["ä", "b b", ""])[CLASS_NUMBERS],
    "string objects": np.array(["no", "yes"], object)[CLASS_NUMBERS % 2],
    "two bools": CLASS_NUMBERS > 1,
    "two floats": np.array([-1.0, 2.0])[CLASS_NUMBERS % 2],
    "two labels": (RANDOM.rand(90, 2) > 0.5).astype(int),
    "many labels": (RANDOM.rand(90, 4) > 0.5).astype(int),
    "one class": np.full(90, 3),
}


def run(onnx_model, X, names=None):
    session = runtime.InferenceSession(onnx_model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(names, {session.get_inputs()[0].name: X})


def classifier(y, dtype="float64"):
    return MLPClassifier((7, 6), random_state=0, max_iter=99, learning_rate_init=0.02, dtype=dtype).fit(X, y)


def wide_network(activation, loss, dtype, **parameters):
    """A network with sums from deep in one tail of an activation to the other, and moderate outputs."""
    n_outputs = 3 * _core.loss_outputs(loss, parameters)[0]
    network = Network([5, 16, 16, n_outputs], activation, loss, dtype, random_state=1, loss_parameters=parameters)
    network.weights[0] *= 12
    network.weights[2] *= 0.1
    return network


def test_every_activation(activation, dtype):
    network = wide_network(activation, "squared_error", dtype)
    (outputs,) = run(to_onnx(network), X.astype(dtype))
    assert outputs.dtype == dtype
    np.testing.assert_allclose(outputs, network(X), **CLOSE[dtype])


def test_every_output_activation(loss, dtype):
    network = wide_network("tanh", loss, dtype)
    (outputs,) = run(to_onnx(network), X.astype(dtype))
    np.testing.assert_allclose(outputs, network(X), **CLOSE[dtype])


@pytest.mark.parametrize(
    ("name", "parameters"), [("quantile", {"quantile": [0.1, 0.3, 0.5, 0.9]}), ("gaussian_nll", {"eps": 0.7})]
)
def test_output_activations_with_hyperparameters(name, parameters, dtype):
    network = wide_network("tanh", name, dtype, **parameters)
    onnx_model = to_onnx(network)
    for rows in (X, X[:1], X[:0]):
        (outputs,) = run(onnx_model, rows.astype(dtype))
        np.testing.assert_allclose(outputs, network(rows), **CLOSE[dtype])


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_hidden_layers_with_normalization_and_skips(kind, opset, dtype):
    network = trained(*kind, dtype)
    (outputs,) = run(to_onnx(network, opset=opset), X.astype(dtype))
    np.testing.assert_allclose(outputs, network(X), **CLOSE[dtype])


def test_estimators_with_normalization_skips_and_dropout(dtype):
    """Of estimators and of what they compile to; nothing is left out of predictions."""
    settings = {"normalization": ["batch_norm", "layer_norm", "rms_norm"], "residual": True, "dropout": 0.2}
    model = MLPClassifier((8, 8, 6), input_dropout=0.1, max_iter=3, random_state=0, dtype=dtype, **settings)
    probabilities = model.fit(X, CLASS_NUMBERS).predict_proba(X)
    for exported in (to_onnx(model), to_onnx(model.compile())):
        np.testing.assert_allclose(run(exported, X.astype(dtype))[1], probabilities, **CLOSE[dtype])


@pytest.mark.parametrize("kind", TARGETS)
def test_classifiers(kind, dtype):
    model = classifier(TARGETS[kind], dtype)
    onnx_model = to_onnx(model)
    rows = X.astype(dtype)
    labels, probabilities = run(onnx_model, rows, ["label", "probabilities"])
    np.testing.assert_array_equal(labels, model.predict(rows))
    assert labels.ndim == 2 or set(labels) == set(model.classes_)
    assert probabilities.dtype == dtype
    np.testing.assert_allclose(probabilities, model.predict_proba(rows), **CLOSE[dtype])
    label, probability = run(onnx_model, rows[3:4])
    assert label.shape == labels[:1].shape
    np.testing.assert_allclose(probability, probabilities[3:4], **CLOSE[dtype])


@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.parametrize("regression_loss", ["squared_error", "poisson"])
def test_regressors(n_outputs, regression_loss, dtype):
    y = np.abs(X[:, :n_outputs])
    model = MLPRegressor(regression_loss, (6,), ["gelu"], random_state=0, max_iter=3, dtype=dtype).fit(X, y.squeeze())
    (outputs,) = run(to_onnx(model), X.astype(dtype), ["variable"])
    assert outputs.shape == (90, n_outputs)
    np.testing.assert_allclose(outputs.squeeze(), model.predict(X), **CLOSE[dtype])


def test_regressors_with_several_outputs_for_a_target(dtype):
    model = MLPRegressor("gaussian_nll", (6,), random_state=0, max_iter=3, dtype=dtype).fit(X, X[:, 0])
    (outputs,) = run(to_onnx(model), X.astype(dtype), ["variable"])
    mean, deviation = model.predict(X, return_std=True)
    np.testing.assert_allclose(outputs, np.stack([mean, deviation**2], axis=1), **CLOSE[dtype])
    model = MLPRegressor("quantile", (6,), loss_parameters={"quantile": [0.2, 0.7]}, max_iter=3, dtype=dtype)
    (outputs,) = run(to_onnx(model.fit(X, X[:, :2])), X.astype(dtype), ["variable"])
    np.testing.assert_allclose(outputs.reshape(90, 2, 2), model.predict(X), **CLOSE[dtype])


def test_names_types_and_free_number_of_rows():
    graph = to_onnx(classifier(TARGETS["three strings"])).graph
    shape = [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    assert ([value.name for value in graph.input], shape) == (["X"], ["n_samples", 5])
    assert [value.name for value in graph.output] == ["label", "probabilities"]
    kinds = [value.type.tensor_type.elem_type for value in [*graph.input, *graph.output]]
    assert kinds == [onnx.TensorProto.DOUBLE, onnx.TensorProto.STRING, onnx.TensorProto.DOUBLE]


def test_no_hidden_layer_and_one_activation_per_layer():
    for hidden, activation in (((), "relu"), ((4, 3), ["mish", "selu"])):
        model = MLPRegressor(hidden_layer_sizes=hidden, activation=activation, max_iter=2).fit(X, X[:, 0])
        np.testing.assert_allclose(run(to_onnx(model), X)[0][:, 0], model.predict(X), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_opsets(opset, activation, dtype):
    network = wide_network(activation, "log_loss", dtype)
    onnx_model = to_onnx(network, opset=opset)
    assert [(each.domain, each.version) for each in onnx_model.opset_import] == [("", opset)]
    np.testing.assert_allclose(run(onnx_model, X.astype(dtype))[0], network(X), **CLOSE[dtype])


@pytest.mark.parametrize("opset", [12, 999])
def test_other_opsets_are_refused(opset):
    with pytest.raises(ValueError, match=rf"opset must be between 13 and \d+ .*, got {opset}"):
        to_onnx(Network([2, 1]), opset=opset)


def test_dtype_may_be_chosen():
    model = classifier(CLASS_NUMBERS)
    _, probabilities = run(to_onnx(model, dtype="float32"), X.astype(np.float32))
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, model.predict_proba(X), **CLOSE["float32"])
    with pytest.raises(ValueError, match="unknown dtype 'float16'; valid names: 'float32', 'float64'"):
        to_onnx(model, dtype="float16")


def test_parameters_that_do_not_fit_are_refused():
    network = Network([1, 1])
    network.weights = [[[1e300]]]
    with pytest.raises(ValueError, match="do not fit into float32"):
        to_onnx(network, dtype="float32")


@pytest.mark.parametrize(
    "scalers",
    [
        [StandardScaler()],
        [StandardScaler(with_mean=False), "passthrough", StandardScaler(with_std=False)],
        [MinMaxScaler((-1, 3)), RobustScaler()],
        [None, MaxAbsScaler()],
    ],
    ids=str,
)
def test_scalers_before_the_network(scalers, dtype):
    data = X * [1, 10, 100, 0.01, 1] + [0, 5, 300, 0, -7]
    pipeline = make_pipeline(*scalers, MLPRegressor(max_iter=3, random_state=0)).fit(data, X[:, 0])
    (outputs,) = run(to_onnx(pipeline, dtype=dtype), data.astype(dtype))
    np.testing.assert_allclose(outputs[:, 0], pipeline.predict(data), **CLOSE[dtype])


def test_other_steps_are_refused():
    for step in (PolynomialFeatures(1, include_bias=False), MinMaxScaler(clip=True)):
        pipeline = make_pipeline(step, MLPRegressor(max_iter=2)).fit(X, X[:, 0])
        with pytest.raises(TypeError, match=r"before the network: StandardScaler, .*'passthrough'; got .*\("):
            to_onnx(pipeline)


def test_compiled_models():
    model = classifier(TARGETS["three strings"])
    assert to_onnx(model.compile()).graph.node == to_onnx(model).graph.node


def test_file_and_feature_names(tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    model = MLPClassifier(max_iter=2).fit(pandas.DataFrame(X, columns=list("abcdé")), CLASS_NUMBERS)
    onnx_model = to_onnx(model, tmp_path / "model.onnx")
    assert onnx.load(tmp_path / "model.onnx") == onnx_model
    assert {entry.key: entry.value for entry in onnx_model.metadata_props} == {
        "feature_names": '["a", "b", "c", "d", "\\u00e9"]'
    }


def test_wrong_models_are_refused():
    with pytest.raises(NotFittedError):
        to_onnx(MLPClassifier())
    with pytest.raises(
        TypeError, match=r"must be an MLPClassifier, an MLPRegressor, .* or a Network, got StandardScaler"
    ):
        to_onnx(StandardScaler())
    model = classifier(CLASS_NUMBERS)
    model.classes_ = np.array([None, 1j, ()], object)
    with pytest.raises(TypeError, match="class labels must be integers, floats, bools or strings, got object"):
        to_onnx(model)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'fastmlp\[onnx\]'"):
        to_onnx(Network([2, 1]))
    with pytest.raises(ImportError, match="pip install skl2onnx"):
        register_skl2onnx()


# --- skl2onnx ------------------------------------------------------------------------------------------------------


def pipeline_in_onnx(estimator, y, dtype, **options):
    skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx is not installed")
    register_skl2onnx()
    pipeline = make_pipeline(StandardScaler(), estimator).fit(X, y)
    return pipeline, skl2onnx.to_onnx(pipeline, X.astype(dtype), options=options or None)


@pytest.mark.parametrize("kind", TARGETS)
def test_pipelines_with_a_classifier(kind, dtype):
    pipeline, onnx_model = pipeline_in_onnx(
        MLPClassifier((8,), "gelu", random_state=0, max_iter=3), TARGETS[kind], dtype, zipmap=False
    )
    labels, probabilities = run(onnx_model, X.astype(dtype), ["label", "probabilities"])
    np.testing.assert_array_equal(labels, pipeline.predict(X))
    declared = [len(value.type.tensor_type.shape.dim) for value in onnx_model.graph.output]
    assert declared == [labels.ndim, probabilities.ndim]
    assert onnx_model.graph.output[1].type.tensor_type.shape.dim[1].dim_value == probabilities.shape[1]
    assert probabilities.dtype == dtype
    np.testing.assert_allclose(probabilities, pipeline.predict_proba(X), **CLOSE[dtype])


def test_pipelines_with_zipmap():
    pipeline, onnx_model = pipeline_in_onnx(MLPClassifier(max_iter=3), TARGETS["three strings"], "float32")
    labels, rows = run(onnx_model, X.astype(np.float32), ["output_label", "output_probability"])
    np.testing.assert_array_equal(labels, pipeline.predict(X))
    np.testing.assert_allclose(rows[0]["ä"], pipeline.predict_proba(X)[0, -1], **CLOSE["float32"])


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_pipelines_with_a_regressor(n_outputs, dtype):
    pipeline, onnx_model = pipeline_in_onnx(MLPRegressor(random_state=0, max_iter=3), X[:, :n_outputs].squeeze(), dtype)
    (outputs,) = run(onnx_model, X.astype(dtype), ["variable"])
    np.testing.assert_allclose(outputs.squeeze(), pipeline.predict(X), **CLOSE[dtype])
