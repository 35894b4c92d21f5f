"""The description of a network: plain data, checked when it is made."""

import numpy as np
import pytest
import reference

from fastmlp._core import Engine, Network, activations, losses


@pytest.mark.parametrize("layer_sizes", [(1, 1), (4, 3), (4, 5, 3), (2, 1, 7, 1, 3), (784, 100, 100, 10)])
def test_says_what_it_was_told(layer_sizes):
    hidden = ["tanh", "relu", "mish"][: len(layer_sizes) - 2]
    network = Network(layer_sizes, hidden, "log_loss")
    assert network.layer_sizes == list(layer_sizes)
    assert network.activations == hidden
    assert network.loss == "log_loss"


@pytest.mark.parametrize("layer_sizes", [(1, 1), (4, 3), (4, 5, 3), (2, 1, 7, 1, 3), (784, 100, 100, 10)])
def test_offsets_cut_the_buffer_as_scikit_learn_packs_it(layer_sizes):
    """All weights in the order of the layers, then all biases, without gap or overlap."""
    network = Network(layer_sizes, ["relu"] * (len(layer_sizes) - 2), "squared_error")
    net = reference.Net(layer_sizes, network.activations, network.loss)
    coefs, intercepts = reference.unpack(net, np.arange(network.n_parameters))
    assert network.offsets["coefs"] == [W[0, 0] for W in coefs]
    assert network.offsets["intercepts"] == [b[0] for b in intercepts]
    assert intercepts[-1][-1] == network.n_parameters - 1


def test_every_name_of_the_catalogues(activation, loss):
    network = Network([2, 3, 2], [activation], loss)
    assert (network.activations, network.loss) == ([activation], loss)


def test_cannot_be_changed_from_outside():
    network = Network([2, 3, 2], ["relu"], "log_loss")
    network.layer_sizes.append(9)
    network.offsets["coefs"][0] = 99
    assert (network.layer_sizes, network.offsets["coefs"]) == ([2, 3, 2], [0, 6])
    with pytest.raises(AttributeError):
        network.loss = "poisson"


@pytest.mark.parametrize("layer_sizes", [[], [3]])
def test_fewer_than_two_layers(layer_sizes):
    with pytest.raises(ValueError, match="layer"):
        Network(layer_sizes, [], "log_loss")


@pytest.mark.parametrize("bad", [0, -1, -(2**31)])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_sizes_must_be_positive(bad, position):
    layer_sizes = [2, 3, 4]
    layer_sizes[position] = bad
    with pytest.raises(ValueError, match=str(bad)):
        Network(layer_sizes, ["relu"], "log_loss")


@pytest.mark.parametrize("layer_sizes", [[2**62, 2**62], [2**32, 2**32], [2**31, 2**31, 2**31, 2]])
def test_a_network_whose_size_overflows(layer_sizes):
    with pytest.raises(ValueError, match=r"2\*\*"):
        Network(layer_sizes, ["relu"] * (len(layer_sizes) - 2), "log_loss")


@pytest.mark.parametrize("n_activations", [0, 1, 3])
def test_one_activation_for_each_hidden_layer(n_activations):
    with pytest.raises(ValueError, match="activation"):
        Network([2, 3, 4, 5], ["relu"] * n_activations, "log_loss")


def test_unknown_activation_lists_the_valid_ones():
    with pytest.raises(ValueError, match="nope") as error:
        Network([2, 3, 2], ["nope"], "log_loss")
    assert all(name in str(error.value) for name in activations())


def test_unknown_loss_lists_the_valid_ones():
    with pytest.raises(ValueError, match="nope") as error:
        Network([2, 3, 2], ["relu"], "nope")
    assert all(name in str(error.value) for name in losses())


@pytest.mark.parametrize(
    "arguments",
    [
        (5, [], "log_loss"),
        ([2, 3], None, "log_loss"),
        ([2, "3"], [], "log_loss"),
        ([2.5, 3], [], "log_loss"),
        ([2, 3], [], 7),
    ],
)
def test_wrong_types(arguments):
    with pytest.raises(TypeError):
        Network(*arguments)


def test_unknown_dtype_lists_the_valid_ones():
    with pytest.raises(ValueError, match="float16") as error:
        Engine(Network([2, 2], [], "log_loss"), "float16")
    assert "float32" in str(error.value)
    assert "float64" in str(error.value)


def test_negative_number_of_threads():
    with pytest.raises(ValueError, match="n_threads"):
        Engine(Network([2, 2], [], "log_loss"), "float64", -1)
