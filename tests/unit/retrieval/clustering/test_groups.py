from drawn_index import Seen, make_index

from facereel.retrieval.clustering.groups import grouped, make_groups

VIDEOS = {
    "a.mp4": [Seen(0, 0, 5), Seen(1, 6, 9, "Bo"), Seen(0, 7, 8)],
    "b.mp4": [Seen(1, 0, 2), Seen(0, 3, 4), Seen(2, 5, 5.5)],
}


def faces(groups):
    return [[(track.video[-5], track.number) for track in group.tracks] for group in groups]


def test_groups_span_videos_and_are_saved(tmp_path):
    index = make_index(tmp_path, VIDEOS)
    groups = make_groups(index, 0.2)
    assert faces(groups) == [[("a", 0), ("a", 2), ("b", 1)], [("a", 1), ("b", 0)], [("b", 2)]]
    assert [group.number for group in groups] == [1, 2, 3]
    assert [(group.n_videos, group.seconds) for group in groups] == [(2, 7.0), (2, 5.0), (1, 0.5)]
    assert grouped(index.tracks()) == groups


def test_name_is_proposed_but_not_set(tmp_path):
    index = make_index(tmp_path, VIDEOS)
    first, second, _ = make_groups(index, 0.2)
    assert (first.names, first.proposal) == ([], None)
    assert (second.names, second.proposal) == (["Bo"], "Bo")
    assert [track.number for track in second.unnamed] == [0]
    assert [track.person for track in index.tracks()] == [None, "Bo", None, None, None, None]


def test_simultaneous_tracks_are_in_different_groups(tmp_path):
    index = make_index(tmp_path, {"a.mp4": [Seen(0, 0, 5), Seen(0, 4, 9)], "b.mp4": [Seen(0, 4, 9)]})
    assert [len(group.tracks) for group in make_groups(index, 0.2)] == [2, 1]


def test_new_tracks_have_no_group_until_clustering_again(tmp_path):
    index = make_index(tmp_path, {"a.mp4": [Seen(0, 0, 5)]})
    make_groups(index, 0.2)
    make_index(tmp_path, {"b.mp4": [Seen(0, 0, 5)]})
    assert [len(group.tracks) for group in grouped(index.tracks())] == [1]
    assert [len(group.tracks) for group in make_groups(index, 0.2)] == [2]


def test_groups_follow_names(tmp_path):
    seen = [Seen(0, 0, 1, "Ada"), Seen(0, 2, 3, "Bo"), Seen(1, 4, 5, "Bo")]
    groups = make_groups(make_index(tmp_path, {"a.mp4": seen}), 0.2)
    assert [group.names for group in groups] == [["Bo"], ["Ada"]]
    assert [len(group.tracks) for group in groups] == [2, 1]
