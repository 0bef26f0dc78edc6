"""What vectors of texts know before anything is fine-tuned: neighbours, clusters, a linear probe, a picture."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from nlp_ssl.core import console
from nlp_ssl.core.cache import caching, is_whole
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import cache_dir
from nlp_ssl.core.fingerprint import fingerprint
from nlp_ssl.data.sequences.batches import selections
from nlp_ssl.models.loading import weights_digest
from nlp_ssl.objectives.labelled import pad_rows

Pooling = Literal["mean", "cls"]
NEIGHBOURS = 10
SAMPLE = 2000  # rows whose pairs are looked at; of 2,000 there are two million


@torch.no_grad()
def embed(
    model: PreTrainedModel, rows: Dataset, pad_id: int, *, pooling: Pooling = "mean", batch_size: int = 64
) -> np.ndarray:
    """A vector a text, computed once: kept in the cache under the weights' and the rows' fingerprint.

    Args:
        model: without a head, such as `AutoModel` gives.
        rows: from `Classification.prepare`.
        pad_id: fills rows up.
        pooling: the mean over the text's tokens, special ones included, or the first token's vector.
        batch_size: rows in a forward pass; rows of like length share one.

    Returns:
        float32, (rows, hidden).
    """
    key = fingerprint([weights_digest(model), rows._fingerprint, len(rows), pooling])
    file = cache_dir() / "features" / f"{key}.npy"
    if is_whole(file):
        return np.load(file)
    model.eval()
    lengths = np.asarray(rows["length"][:])
    order = np.argsort(-lengths, kind="stable")
    vectors = np.zeros((len(rows), model.config.hidden_size), dtype=np.float32)
    batches = console.progress(list(selections(rows, order, batch_size)), desc="embed", unit="batch")
    for part in batches:
        batch = pad_rows([row["input_ids"] for row in part], pad_id)
        batch = {name: value.to(model.device) for name, value in batch.items()}
        hidden, mask = model(**batch).last_hidden_state.float(), batch["attention_mask"][..., None]
        pooled = hidden[:, 0] if pooling == "cls" else (hidden * mask).sum(1) / mask.sum(1)
        vectors[part.numbers] = pooled.cpu().numpy()
    with caching(file) as temporary, open(temporary, "xb") as unfinished:
        np.save(unfinished, vectors)
    return vectors


@dataclass(frozen=True)
class Measured:
    """What vectors of labelled texts say.

    Attributes:
        probe: share of held-out rows that a logistic regression on the training vectors gets right.
        neighbours: the same of a vote of the ten nearest training vectors, by cosine.
        silhouette: how much nearer a held-out row is to its class than to the next one, from -1 to 1, by cosine.
        alignment: mean squared distance of two rows of one class on the unit sphere; low is good.
        uniformity: log of the mean of exp(-2 d^2) over all pairs; low is spread out.
    """

    probe: float
    neighbours: float
    silhouette: float
    alignment: float
    uniformity: float


def measure_embeddings(
    train: np.ndarray, train_labels: np.ndarray, held_out: np.ndarray, labels: np.ndarray
) -> Measured:
    """Score vectors by the labels of their texts.

    Alignment and uniformity are those of Wang and Isola (2020), with two rows of a class for a positive pair.

    Args:
        train: float32, (N, hidden).
        train_labels: int64, (N,).
        held_out: float32, (M, hidden).
        labels: int64, (M,).
    """
    sklearn = load_sklearn()
    scaler = sklearn.preprocessing.StandardScaler()
    probe = sklearn.linear_model.LogisticRegression(C=0.1, max_iter=2000)
    probe.fit(scaler.fit_transform(train), train_labels)
    neighbours = sklearn.neighbors.KNeighborsClassifier(min(NEIGHBOURS, len(train)), metric="cosine")
    neighbours.fit(train, train_labels)
    some = np.arange(min(SAMPLE, len(held_out))) * len(held_out) // min(SAMPLE, len(held_out))
    sphere = held_out[some] / np.maximum(1e-12, np.linalg.norm(held_out[some], axis=1, keepdims=True))
    squared = np.maximum(0, 2 - 2 * sphere @ sphere.T)
    pairs = ~np.eye(len(some), dtype=bool)
    same = pairs & (labels[some][:, None] == labels[some][None, :])
    return Measured(
        probe=float(probe.score(scaler.transform(held_out), labels)),
        neighbours=float(neighbours.score(held_out, labels)),
        silhouette=float(sklearn.metrics.silhouette_score(held_out[some], labels[some], metric="cosine")),
        alignment=float(squared[same].mean()) if same.any() else float("nan"),
        uniformity=float(np.log(np.exp(-2 * squared[pairs]).mean())),
    )


def maps(vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Two pictures of vectors: `"PCA"` and `"t-SNE"`, each (N, 2)."""
    sklearn = load_sklearn()
    reduced = sklearn.decomposition.PCA(min(50, *vectors.shape), random_state=0).fit_transform(vectors)
    perplexity = min(30.0, max(1.0, (len(vectors) - 1) / 3))
    tsne = sklearn.manifold.TSNE(2, perplexity=perplexity, init="pca", random_state=0)
    return {"PCA": reduced[:, :2], "t-SNE": tsne.fit_transform(reduced)}


def load_sklearn() -> Any:
    """scikit-learn, with the parts that are used here.

    Raises:
        UserError: it is not installed.
    """
    try:
        import sklearn
        import sklearn.decomposition
        import sklearn.linear_model
        import sklearn.manifold
        import sklearn.metrics
        import sklearn.neighbors
        import sklearn.preprocessing
    except ImportError:
        raise UserError("this needs scikit-learn: pip install scikit-learn") from None
    return sklearn
