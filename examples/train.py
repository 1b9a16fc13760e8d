"""Train on the ORL faces without the command line: with facereel.train, then with a plain Lightning Trainer.

    pip install 'facereel[cpu,demo]'
    python train.py

The schedule is short, to show the calls; `facereel demo` trains longer. Results are written to the folder runs/example.
"""

from pathlib import Path

import pytorch_lightning as pl

import facereel
from facereel.data import Skipped, load_faces, read_orl
from facereel.evaluation import SavedSplit
from facereel.losses import TripletLoss
from facereel.training.data_module import BatchOptions
from facereel.training.optimization import OptimizationOptions

OUT = Path("runs/example")


def train_run() -> facereel.Run:
    """Pretrain and train with the overrides of `facereel train`."""
    return facereel.train(
        "experiment=demo",
        "baselines=false",
        "encoder.width=0.25",
        "stages.pretrain.epochs=8",
        "stages.stage1.epochs=4",
        "stages.stage2=null",
        out=OUT / "run",
    )


def train_plain(run: facereel.Run) -> facereel.Evaluation:
    """Train the hashing stage again under a plain Trainer, from the pretrained encoder and on the split of the run."""
    skipped = Skipped()
    faces = load_faces(read_orl(skipped), skipped, size=64, grayscale=True)
    split_file = run.folder / "split.json"
    split = SavedSplit(split_file).split(faces, seed=1)
    data = facereel.FaceDataModule(faces, split, batch=BatchOptions(identities_per_batch=8))
    model = facereel.VideoHasher.load(run.folder / "pretrain" / "model")
    module = facereel.HashingModule(
        model,
        TripletLoss(margin=0.25, n_bits=model.n_bits),
        OptimizationOptions(lr=1e-3, head_lr_multiplier=100, schedule="one_cycle", freeze_batch_norm=True),
    )
    trainer = pl.Trainer(
        max_epochs=4,
        accelerator="cpu",
        limit_val_batches=0,  # with two sets of images for each person, none is left for validation
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    model.save(OUT / "plain")
    overrides = ("data=orl", "protocol=saved", f"protocol.file={split_file}")
    return facereel.evaluate(OUT / "plain", *overrides, out=OUT / "plain" / "evaluation")


def print_metrics(title: str, evaluation: facereel.Evaluation) -> None:
    """Print the mAP of each task, and where the report is."""
    values = ", ".join(f"{task} {value['mAP']:.3f}" for task, value in evaluation.metrics["tasks"].items())
    print(f"{title}: {values}\n  report: {evaluation.report}")


if __name__ == "__main__":
    run = train_run()
    print_metrics("facereel.train", run)
    print_metrics("plain Trainer", train_plain(run))
