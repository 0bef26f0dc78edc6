"""Vectors of texts: those of the model alone on each text, kept, and scored as scikit-learn and closed forms say."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from toys import texts, tiny_model, tokenizer
from transformers import AutoModel

from nlp_ssl.evaluation import embeddings
from nlp_ssl.evaluation.embeddings import embed, maps, measure_embeddings
from nlp_ssl.objectives.classification import ClassificationCollator
from nlp_ssl.publishing.plots import plot_maps


@pytest.fixture
def setting(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "cache_dir", lambda: tmp_path)
    names = tokenizer("wordpiece")
    model = tiny_model("bert", vocab_size=len(names), auto_class=AutoModel)
    reader = ClassificationCollator(names, ["a", "b"], ["text"], max_length=40)
    data = Dataset.from_dict({"text": [t for t in texts(60) if t], "label": [i % 2 for i in range(59)]})
    rows = reader.tokenize(data)
    return model, rows, reader.pad_id


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_vector_is_the_texts_own_and_is_kept(setting, pooling, tmp_path, monkeypatch):
    model, rows, pad_id = setting
    found = embed(model, rows, pad_id, pooling=pooling, batch_size=7)
    for row, vector in zip(rows, found, strict=True):
        with torch.no_grad():
            hidden = model(torch.tensor([row["input_ids"]])).last_hidden_state[0]
        expected = hidden[0] if pooling == "cls" else hidden.mean(0)
        assert np.allclose(vector, expected.numpy(), atol=1e-4)
    with monkeypatch.context() as patched:  # found again, not computed
        patched.setattr(model, "forward", None)
        assert np.array_equal(embed(model, rows, pad_id, pooling=pooling), found)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight += 0.1
    assert not np.allclose(embed(model, rows, pad_id, pooling=pooling), found)  # other weights, other vectors
    assert len(list(tmp_path.glob("features/*.npy"))) == 2


def test_numbers_of_two_clear_clusters_and_of_noise():
    rng = np.random.default_rng(0)
    centres = np.array([[3.0, 0, 0, 0], [0, 3.0, 0, 0]], dtype=np.float32)
    labels = rng.integers(2, size=400)
    clear = centres[labels] + 0.1 * rng.normal(size=(400, 4)).astype(np.float32)
    found = measure_embeddings(clear[:300], labels[:300], clear[300:], labels[300:])
    assert (found.probe, found.neighbours) == (1, 1)
    assert found.silhouette > 0.9
    assert found.alignment < 0.05
    # half of the pairs at distance 0, half at the square root of 2: log of the mean of 1 and exp(-4)
    share = np.mean(labels[300:][:, None] != labels[300:][None, :]) * 100 / 99
    assert found.uniformity == pytest.approx(np.log(1 - share + share * np.exp(-4)), abs=0.02)
    noise = rng.normal(size=(400, 4)).astype(np.float32)
    found = measure_embeddings(noise[:300], labels[:300], noise[300:], labels[300:])
    assert 0.3 < found.probe < 0.7
    assert abs(found.silhouette) < 0.1


def test_maps_and_their_picture(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 12
    vectors = rng.normal(size=(90, 8)).astype(np.float32) + 5 * np.eye(12, 8)[labels]
    pictures = maps(vectors)
    assert {name: points.shape for name, points in pictures.items()} == {"PCA": (90, 2), "t-SNE": (90, 2)}
    variances = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False) ** 2
    assert (pictures["PCA"] ** 2).sum(0) == pytest.approx(variances[:2], rel=1e-4)
    assert plot_maps(pictures, labels, [f"class {i}" for i in range(12)], tmp_path / "map.png").stat().st_size > 10_000


def test_a_class_whose_name_begins_with_an_underscore_is_in_the_legend(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("nlp_ssl.publishing.plots.save_figure", lambda figure, path: drawn.append(figure))
    points = np.random.default_rng(0).normal(size=(30, 2))
    plot_maps({"mean": points}, np.arange(30) % 3, ["_private", "public", "$x$"], tmp_path / "map.png")
    texts = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert texts == ["_private", "public", "$x$"]
