import pytest

from sdtune.data.captions.length import lost_words, measure_captions


def cut_behind(limit, count=lambda text: len(text.replace(",", " ,").split())):
    return lambda text: max(0, count(text) - limit)


def words(number, first=0):
    return " ".join(f"w{place}" for place in range(first, first + number))


@pytest.mark.parametrize("length", [76, 80, 500])
def test_the_words_behind_the_cut_are_told(length):
    assert lost_words(words(length), cut_behind(75)) == words(length - 75, first=75)


def test_a_caption_that_fits_loses_nothing():
    assert lost_words(words(75), cut_behind(75)) == ""


def test_a_comma_at_the_cut_is_no_word():
    assert lost_words("red, blue, green", cut_behind(3)) == "green"


def test_a_word_that_is_cut_in_two_is_lost():
    assert lost_words("a hot-dog", cut_behind(2, lambda text: len(text.replace("-", " - ").split()))) == "hot-dog"


def test_text_without_spaces_is_cut_between_its_letters():
    assert lost_words("一只小狗在草地上跑", cut_behind(4, len)) == "在草地上跑"


def test_captions_are_counted_by_images_the_worst_first():
    texts = {"a": words(80), "b": words(200), "c": "short", "d": words(80)}
    found = measure_captions(texts.items(), lambda text: len(text.split()), cut_behind(75))
    assert (found.captions, found.longest) == (4, 200)
    assert found.longer == {75: 3, 150: 1, 225: 0}
    assert [(own.name, own.tokens, own.cut, own.images) for own in found.cut] == [("b", 200, 125, 1), ("a", 80, 5, 2)]
    assert str(found.cut[1]) == f"a loses 5 of 80, '{words(5, first=75)}'"


def test_there_may_be_no_captions():
    found = measure_captions([], len, len)
    assert (found.captions, found.longest, found.cut) == (0, 0, ())
