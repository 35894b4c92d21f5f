"""scikit-learn's common checks of estimators: nothing may fail that its own perceptrons pass."""

from dataclasses import replace

import pytest
from sklearn import neural_network
from sklearn.base import clone
from sklearn.utils import get_tags
from sklearn.utils._test_common.instance_generator import (
    INIT_PARAMS,
    PER_ESTIMATOR_CHECK_PARAMS,
    PER_ESTIMATOR_XFAIL_CHECKS,
)
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from fastmlp import MLPClassifier, MLPRegressor

MODELS = {MLPClassifier: neural_network.MLPClassifier, MLPRegressor: neural_network.MLPRegressor}
# Beside the settings in which scikit-learn checks its own classes: what is ours alone, and what changes the solver.
NOT_OF_TRANSFORMERS = "check_non_transformer_estimators_n_iter"  # its counterpart is check_transformer_n_iter
SETTINGS = [{}, {"n_jobs": 2}, {"activation": "gelu"}, {"solver": "lbfgs", "max_iter": 30}]


def name_of(check):
    return getattr(check, "func", check).__name__


def instances():
    return [model(**INIT_PARAMS[theirs] | own) for model, theirs in MODELS.items() for own in SETTINGS]


# What scikit-learn checks of an estimator for the sake of a parameter that its own class lacks.
OF_OUR_PARAMETERS = {MLPClassifier: {"check_class_weight_classifiers"}, MLPRegressor: set()}


@parametrize_with_checks(instances())
def test_check(estimator, check):
    # scikit-learn runs some checks of its own classes with other settings; it knows them by their type.
    softened = PER_ESTIMATOR_CHECK_PARAMS[MODELS[type(estimator)]].get(name_of(check), [{}])
    for settings in softened:
        check(clone(estimator).set_params(**settings))  # the checks share one instance


@pytest.mark.parametrize(("model", "theirs"), MODELS.items(), ids=lambda model: model.__module__)
def test_as_many_checks_as_for_scikit_learn(model, theirs):
    """All of its tags and checks, and those of a transformer; scikit-learn expects none of them to fail either."""
    tags = get_tags(model())
    assert tags.transformer_tags.preserves_dtype == ["float64", "float32"]
    assert replace(tags, transformer_tags=None) == get_tags(theirs())
    checks = {name_of(check) for _, check in estimator_checks_generator(model())}
    more = checks - {name_of(check) for _, check in estimator_checks_generator(theirs())}
    assert checks >= {name_of(check) for _, check in estimator_checks_generator(theirs())} - {NOT_OF_TRANSFORMERS}
    assert more >= {"check_transformer_general", "check_transformer_preserve_dtypes", "check_transformers_unfitted"}
    assert more >= OF_OUR_PARAMETERS[model]
    assert len(checks) >= 50
    assert not PER_ESTIMATOR_XFAIL_CHECKS.get(theirs)
