"""Which evaluation is the best, and when a run has waited long enough for a better one."""

import json

import pytest

from nlp_ssl.config.common import EvaluationConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.training.early_stopping import EarlyStopping

METRICS = {"held_out_loss": "min", "perplexity": "min"}  # as an objective says them


def story(judge, values):
    """Whether each is the best so far, up to the end of the patience."""
    found = []
    for value in values:
        judge.update({judge.metric: value})
        found.append(judge.is_best)
        if judge.should_stop:
            break
    return found


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("held_out_loss", [5.0, 4.0, 4.0, 4.5, 1.0], [True, True, False, False]),
        (None, [5.0, float("nan"), float("inf"), 1.0], [True, False, False]),
        ("accuracy", [0.5, 0.7, 0.6, 0.8, 0.8, 0.7, 0.9], [True, True, False, True, False, False]),
        ("perplexity", [9.0, 8.0, 9.0, 7.0], [True, True, False, True]),
    ],
)
def test_the_best_so_far_and_the_end_of_patience(metric, values, expected):
    assert story(EarlyStopping(EvaluationConfig(metric=metric, patience=2), METRICS), values) == expected
    assert len(story(EarlyStopping(EvaluationConfig(metric=metric), METRICS), values)) == len(values)  # for ever


def test_the_objective_says_whether_a_low_number_is_good():
    values, config = [3.0, 2.0, 4.0], EvaluationConfig(metric="distance", patience=9)
    assert story(EarlyStopping(config, {"distance": "min"}), values) == [True, True, False]
    assert story(EarlyStopping(config, {"distance": "max"}), values) == [True, False, True]
    assert story(EarlyStopping(config), values) == [True, False, True]  # a score, as far as anybody knows
    assert story(EarlyStopping(EvaluationConfig(metric="mlm_loss", patience=9)), values) == [True, True, False]


def test_a_resumed_run_waits_no_longer():
    whole, values = EarlyStopping(EvaluationConfig(metric="f1", patience=3)), [0.1, 0.5, 0.4, 0.3, 0.2, 0.9]
    expected = story(whole, values)
    first, second = (EarlyStopping(EvaluationConfig(metric="f1", patience=3)) for _ in range(2))
    begin = story(first, values[:3])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert begin + story(second, values[3:]) == expected


def test_a_number_that_is_not_measured_is_a_users_mistake():
    with pytest.raises(UserError, match="metric bleu is not measured here, only held_out_loss, accuracy"):
        EarlyStopping(EvaluationConfig(metric="bleu")).update({"held_out_loss": 1.0, "accuracy": 0.5})
