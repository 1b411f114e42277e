"""processing.packing: which questions share a sequence, and what each token of it sees."""

import torch

from processing.packing import QuestionTree, pack_questions, padded, visible_tokens
from processing.utils import QuestionAnswer


def test_what_prompts_begin_with_stands_once():
    tree = QuestionTree(
        [
            QuestionAnswer([5, 6, 7, 9], [1, 2]),
            QuestionAnswer([5, 6, 8, 9], [3, 2]),
            QuestionAnswer([5, 6, 7, 9], [4, 2]),
        ]
    )
    assert tree.tokens == [5, 6, 7, 9, 1, 8, 9, 3, 9, 4]
    assert tree.labels == [-100, -100, -100, 1, 2, -100, 3, 2, 4, 2]
    assert tree.paths[4] == [0, 1, 2, 3, 4]
    assert tree.paths[7] == [0, 1, 5, 6, 7]
    assert tree.paths[9] == [0, 1, 2, 8, 9]


PAIRS = [
    QuestionAnswer([5, 6], [1]),
    QuestionAnswer([7, 8, 9, 9], [1, 1]),
    QuestionAnswer([8], [1]),
    QuestionAnswer([5], [1]),
]
IMAGES = ["a", "a", "a", "b"]


def test_long_images_are_worth_the_padding_and_short_ones_are_not():
    trees, images = pack_questions(PAIRS, IMAGES, max_questions=16, image_tokens=1000)
    assert images == ["a", "b"]
    assert sorted(trees[0].tokens) == [1, 5, 6, 7, 8, 8, 9, 9]
    assert trees[1].tokens == [5]
    trees, images = pack_questions(PAIRS, IMAGES, max_questions=16, image_tokens=0)
    assert images == ["a", "a", "b"]  # 3 sequences of 5 tokens; 2 would have 8, and 4 have 5
    assert [len(tree.tokens) for tree in trees] == [5, 3, 1]


def test_no_sequence_holds_more_questions_than_allowed():
    trees, images = pack_questions([QuestionAnswer([5, n], [1]) for n in range(6, 13)], ["a"] * 7, 3, 1000)
    assert images == ["a"] * 3
    assert max(sum(label != -100 for label in tree.labels) for tree in trees) == 3


def test_tokens_see_their_own_question_only():
    visible = visible_tokens([QuestionTree(PAIRS[:2]), QuestionTree(PAIRS[3:])])
    assert visible.shape == (2, 7, 7)
    assert visible.dtype == torch.bool
    own, other = visible[0, 1], visible[0, 4]
    assert own.tolist() == [True, True] + [False] * 5
    assert other.tolist() == [False, False, True, True, True, False, False]
    assert visible[1].sum() == 1, "padding sees nothing and is not seen"


def test_padding_is_on_the_side_that_is_asked_for():
    assert padded([[1], [2, 3]], 0).tolist() == [[1, 0], [2, 3]]
    assert padded([[1], [2, 3]], 0, left=True).tolist() == [[0, 1], [2, 3]]
