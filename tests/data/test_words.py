"""The tokenizer of words: by hand, there and back, and on every caption of the shapes world."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.data.shapes.captions import caption_length, caption_words, captions
from vision.data.shapes.world import ShapesConfig, render_scenes
from vision.data.text.words import PADDING, UNKNOWN, WordTokenizer
from vision.errors import UserError

TOKENIZER = WordTokenizer(words=("a", "red", "star", ",", "and"), length=6)


def test_by_hand():
    tokens = TOKENIZER.encode(["A red star", "", "a star, a blue moon"])
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, [[2, 3, 4, 0, 0, 0], [0] * 6, [2, 4, 5, 2, 1, 1]])
    assert TOKENIZER.decode(tokens) == ["a red star", "", "a star, a ? ?"]
    assert TOKENIZER.vocabulary == 7
    assert (PADDING, UNKNOWN) == (0, 1)
    assert TOKENIZER.encode([]).shape == (0, 6)


@given(texts=st.lists(st.lists(st.sampled_from(TOKENIZER.words), max_size=6), max_size=4))
def test_there_and_back(texts):
    tokens = TOKENIZER.encode(" ".join(words) for words in texts)
    assert tokens.shape == (len(texts), 6)
    assert [text.replace(",", " ,").split() for text in TOKENIZER.decode(tokens)] == texts


@pytest.mark.parametrize(
    ("words", "length", "message"),
    [
        (("a", "b", "a"), 3, "twice in the vocabulary"),
        (("a", "B"), 3, "'B' in the vocabulary is not one word in lower case"),
        (("two words",), 3, "is not one word"),
        (("",), 3, "is not one word"),
        (("a",), 0, "at least 1, not 0"),
    ],
)
def test_impossible_vocabularies(words, length, message):
    with pytest.raises(UserError, match=message):
        WordTokenizer(words=words, length=length)


def test_texts_and_tokens_that_do_not_fit():
    with pytest.raises(UserError, match="has 7 words, and at most 6"):
        TOKENIZER.encode(["a star and a star and a"])
    with pytest.raises(ValueError, match=r"in \[0, 7\), and not from 0 to 7"):
        TOKENIZER.decode(np.array([[0, 7]]))


@pytest.mark.parametrize(("least", "most"), [(1, 1), (1, 2), (2, 2), (1, 3), (3, 4)])
def test_every_caption_of_the_shapes_world_is_in_its_vocabulary(least, most):
    config = ShapesConfig(
        resolution=64, min_objects=least, max_objects=most, min_size=0.2, colours=("red", "orange"), shapes=("ring",)
    )
    texts = captions(render_scenes(config, seed=3, indices=np.arange(300)), config)
    tokenizer = WordTokenizer(words=caption_words(config), length=caption_length(config))
    tokens = tokenizer.encode(texts)
    assert UNKNOWN not in tokens
    assert tokenizer.decode(tokens) == texts
    # the length is that of the longest caption there can be; with three or more objects the longest is rare
    longest = int((tokens != PADDING).sum(1).max())
    assert longest == tokenizer.length if most <= 2 else longest <= tokenizer.length


def test_no_word_of_the_vocabulary_is_idle():
    seen = set()
    config = ShapesConfig(resolution=64, min_size=0.2)
    for count in (1, 2, 4):
        config = ShapesConfig(resolution=64, min_objects=count, max_objects=count, min_size=0.2)
        texts = captions(render_scenes(config, seed=4, indices=np.arange(400)), config)
        seen.update(word for text in texts for word in text.replace(",", " ,").split())
    assert seen >= set(caption_words(config)) - {"another"}
