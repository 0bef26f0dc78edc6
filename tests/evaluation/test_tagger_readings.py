"""What plain `pipeline` reads with a tagger, counted as a run counts."""

from nlp_ssl.evaluation.tagger_readings import _accuracy, _tags, _tags_of

SPANS = [(0, 3), (4, 9), (10, 12), (13, 17), (18, 22)]  # "New York is very old"


def test_words_outside_of_every_group_are_outside():
    groups = [{"entity_group": "location", "start": 0, "end": 9}]  # `pipeline` leaves out what it calls O
    truth = _tags(["location", "location", "O", "O", "O"])
    assert _accuracy([_tags_of(groups, SPANS)], [truth]) == 1.0
    assert _accuracy([_tags_of([], SPANS)], [truth]) == 0.6


def test_tags_of_no_scheme_are_words_with_their_tag():
    groups = [
        {"entity_group": "PROPN", "start": 0, "end": 9},
        {"entity_group": "AUX", "start": 10, "end": 12},
        {"entity_group": "ADV", "start": 13, "end": 17},
        {"entity_group": "NOUN", "start": 18, "end": 22},
    ]
    truth = _tags(["PROPN", "PROPN", "AUX", "ADV", "ADJ"])
    assert _accuracy([_tags_of(groups, SPANS)], [truth]) == 0.8
