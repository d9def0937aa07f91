"""The benchmark of killed devices in small: real processes, SIGKILL at random moments, the right file in the end."""

from tests.bench import delta_kills


def test_whoever_applies_a_patch__killed__right_file_and_at_most_one_block_twice() -> None:
    figures = delta_kills.measure(kills=30, mib=1.0, seed=1)
    for way in delta_kills.WAYS:
        shown = figures[way]
        assert shown["kills"] == 10
        assert shown["wrong_digests"] == 0
        assert shown["most_blocks_repeated"] <= 1
    applied = figures[delta_kills.APPLY]
    assert applied["kills"] == 10
    assert applied["wrong_results"] == 0
