"""Readouts of frozen features: ridge regression, nearest neighbours, attentive probes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from smile_train.evaluate import _readouts, attentive, knn, linear, retrieval

Rows = Any


def blobs(n: int = 120, width: int = 12) -> tuple[np.ndarray, np.ndarray, Rows, Rows]:
    """Three classes at different places, in features of a large scale and offset; 2/3 for training."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    x = rng.normal(size=(n, width)).astype(np.float32)
    x[np.arange(n), y] += 6
    return (
        x * np.float32(1000) + 5,
        np.array(["a", "b", "c"])[y],
        np.arange(n * 2 // 3),
        np.arange(n * 2 // 3, n),
    )


def test_readouts_find_classes_at_any_scale() -> None:
    x, y, train, test = blobs()
    for readout in (linear, knn, attentive, partial(attentive, kind="block")):
        assert (readout(x, y, train, test) == y[test]).mean() > 0.9  # type: ignore[operator]
    for hit in retrieval(x, y, train, test).values():
        assert hit.mean() > 0.9


@pytest.mark.parametrize("width", [7, 90])
def test_linear_is_ridge_regression_with_a_penalty_chosen_by_group(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both forms (more rows than features, and fewer) predict as scikit-learn's, read in parts of any size."""
    rng = np.random.default_rng(1)
    group, y = rng.integers(0, 12, 80), np.arange(80) % 3
    x = (rng.normal(size=(80, width)) + 3 * rng.normal(size=(12, width))[group]).astype(np.float32)
    x[np.arange(80), y] += 1.5
    x[:, 5] = 3  # constant: has no influence
    train, test = rng.permutation(80)[:50], np.arange(30)
    monkeypatch.setattr(_readouts, "_ROWS", 8)
    scaler = StandardScaler().fit(x[train].astype(np.float64))
    scaled = {row: values for row, values in enumerate(scaler.transform(x))}

    def predict(penalty: float, rows: Rows, of: Rows) -> np.ndarray:
        ridge = Ridge(alpha=penalty * len(rows)).fit([scaled[r] for r in rows], np.eye(3)[y[rows]])
        return ridge.predict([scaled[r] for r in of]).argmax(1)

    folds = list(GroupKFold(5, shuffle=True, random_state=4).split(train, groups=group[train]))
    correct = [
        sum((predict(p, train[inner], train[held]) == y[train[held]]).sum() for inner, held in folds)
        for p in _readouts.PENALTIES
    ]
    best = max(range(len(correct)), key=lambda k: (correct[k], k))
    found = linear(x, y.astype(str), train, test, groups=group.astype(str), seed=4)
    assert found.tolist() == predict(_readouts.PENALTIES[best], train, test).astype(str).tolist()
    assert len({tuple(predict(p, train, test)) for p in _readouts.PENALTIES}) > 2  # the penalty matters
    with pytest.raises(ValueError, match=r"at least two training classes, got \['0'\]"):
        linear(x, np.full(80, "0"), train, test)


def test_knn_and_retrieval_in_parts_are_those_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    y = rng.integers(0, 5, 300).astype(str)
    x = (rng.normal(size=(300, 9)) + np.eye(5, 9)[y.astype(int)]).astype(np.float32)
    train, test = np.arange(0, 300, 2), np.arange(1, 300, 2)
    whole = knn(x, y, train, test), retrieval(x, y, train, test)
    monkeypatch.setattr(_readouts, "_ROWS", 16)
    monkeypatch.setattr(_readouts, "_TRAIN_ROWS", 7)
    np.testing.assert_array_equal(knn(x, y, train, test), whole[0])
    parts = retrieval(x, y, train, test)
    assert list(parts) == [1, 5, 10]
    centred = x.astype(np.float64) - x[train].mean(0)

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / 0.07)

    reference = KNeighborsClassifier(20, metric="cosine", weights=weights).fit(centred[train], y[train])
    np.testing.assert_array_equal(whole[0], reference.predict(centred[test]))
    nearest = y[train][reference.kneighbors(centred[test], 10, return_distance=False)]
    for k, hit in parts.items():
        np.testing.assert_array_equal(hit, whole[1][k])
        np.testing.assert_array_equal(hit, (nearest[:, :k] == y[test][:, None]).any(1))
    assert list(retrieval(x, y, train[:6], test)) == [1, 5]


def test_attentive_finds_one_token_among_many_in_a_file(tmp_path: Path) -> None:
    """The class is in a marked token at a random place, which the mean over tokens hides."""
    rng = np.random.default_rng(0)
    y, place, rows = rng.integers(0, 2, 240), rng.integers(0, 12, 240), np.arange(240)
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (240, 12, 8))
    x[:] = rng.normal(size=x.shape)
    x[rows, place, 0], x[rows, place, 1] = 6, 2.0 * y - 1
    labels, train, test = np.array(["a", "b"])[y], rows[:180], rows[180:]
    assert (attentive(x, labels, train, test) == labels[test]).mean() > 0.9
    assert (linear(x.mean(1), labels, train, test) == labels[test]).mean() < 0.9
