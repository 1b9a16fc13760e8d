"""A run to which something happens."""

from commands import run
from drawn_faces import make_folder

QUICK = [
    *("encoder.width=0.125", "head.n_bits=8", "data.size=32", "data.detector=null", "trainer=cpu", "augment=none"),
    *("batch.n_people=3", "batch.n_clips=1", "batch.n_stills=1", "batch.n_frames=2", "batch.n_pictures=8"),
    *("stages.stage1=null", "stages.stage2=null", "protocol.val_fraction=0.0"),
]


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path, small_files, capsys):
    make_folder(tmp_path / "faces", n_people=4)
    out = tmp_path / "run"
    options = ["data=folder", f"data.root={tmp_path / 'faces'}", *QUICK, f"out={out}"]
    assert run("train", *options, "stages.pretrain.epochs=1") == 0
    last = out / "pretrain" / "last.ckpt"
    before = last.read_bytes()
    (out / "pretrain" / "done.json").unlink()
    capsys.readouterr()
    small_files(len(before) // 2)
    assert run("train", f"resume={out}", "stages.pretrain.epochs=2", "stages.pretrain.schedule=constant") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"facereel: File too large: {out}/pretrain/best.ckpt; checkpoints are whole, facereel ")
    assert error.endswith(f" train resume={out} goes on from the last\n")
    assert last.read_bytes() == before
    assert not list(last.parent.glob(".*"))
