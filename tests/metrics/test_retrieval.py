"""Retrieval, classification by texts and the CLIP score against brute force; ties; several captions an image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.errors import UserError
from vision.metrics.generation.clip_score import clip_score, protocol
from vision.metrics.retrieval.recall import ranks, recall
from vision.metrics.retrieval.zero_shot import class_embeddings, predicted, prompts


def slow_rank(query, candidates, right):
    """The place of the first right candidate in the order of similarity, wrong ones first among equals."""
    similar = [(float(np.float32(query) @ np.float32(candidate)), index) for index, candidate in enumerate(candidates)]
    order = sorted(similar, key=lambda each: (-each[0], each[1] in right))
    return next(place for place, (_, index) in enumerate(order) if index in right)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), queries=st.integers(1, 7), candidates=st.integers(1, 9), block=st.integers(1, 4))
def test_ranks_are_those_of_sorting(data, queries, candidates, block):
    """Of small whole numbers, so that ties are frequent."""
    vector = st.lists(st.integers(-1, 1), min_size=3, max_size=3)
    one = np.array([data.draw(vector) for _ in range(queries)], np.float32)
    other = np.array([data.draw(vector) for _ in range(candidates)], np.float32)
    right = [np.array(sorted(data.draw(st.sets(st.integers(0, candidates - 1), min_size=1)))) for _ in range(queries)]
    found = ranks(one, other, right, block=block)
    assert found.tolist() == [slow_rank(q, other, set(r.tolist())) for q, r in zip(one, right, strict=True)]
    for depth in (1, 2, 5):
        assert recall(found, depth) == np.mean([rank < depth for rank in found.tolist()])


def test_a_model_to_which_all_is_alike_finds_nothing():
    one, other = np.ones((4, 3), np.float32), np.ones((6, 3), np.float32)
    found = ranks(one, other, [np.array([0, 1])] * 4)
    assert found.tolist() == [4] * 4
    assert (recall(found, 1), recall(found, 5)) == (0.0, 1.0)


def test_prompts():
    assert prompts(("cat", "dog"), ("a {}", "one {}.")) == ["a cat", "one cat.", "a dog", "one dog."]
    for names, templates in (((), ("a {}",)), (("cat",), ())):
        with pytest.raises(UserError, match="at least one class and one template"):
            prompts(names, templates)
    with pytest.raises(UserError, match="the template 'a cat' has no"):
        prompts(("cat",), ("a cat",))


def test_ensembles_are_means_of_unit_vectors():
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(6, 4)) * rng.uniform(0.1, 9, size=(6, 1))
    found = class_embeddings(texts, templates=3)
    for index in range(2):
        total = sum(text / np.linalg.norm(text) for text in texts[3 * index : 3 * index + 3]) / 3
        np.testing.assert_allclose(found[index], total / np.linalg.norm(total), rtol=1e-5)
    images = rng.normal(size=(9, 4)).astype(np.float32)
    slow = [max(range(2), key=lambda k: float(image @ found[k])) for image in images]
    assert predicted(images, found).tolist() == slow
    assert predicted(images[:2], np.concatenate([found, found])).tolist() == slow[:2]  # of equal ones the first


def test_clip_score():
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(5, 4)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)
    found = clip_score(image, text)
    for index in range(5):
        cosine = image[index] @ text[index] / np.linalg.norm(image[index]) / np.linalg.norm(text[index])
        np.testing.assert_allclose(found[index], max(100 * cosine, 0), rtol=1e-5)
    np.testing.assert_allclose(clip_score(3 * image, 0.1 * text), found, rtol=1e-6)
    np.testing.assert_allclose(clip_score(image, image), 100, rtol=1e-6)
    assert (clip_score(image, -image) == 0).all()
    assert "by CLIP x" in protocol("CLIP x", "pairs")
