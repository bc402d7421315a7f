"""Write `conformance.md`: what each paper published, what its experiment here does, and the test that holds it.

    python -m workflow.conformance

What stands under "here" is read from the experiment files, cell by cell, so the page cannot say something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kit.files import atomic
from workflow.experiment import read
from workflow.schema import ROOT

PAGE = ROOT / "workflow" / "conformance.md"
LOSSES, OPTIMIZERS = "test_losses_as_published.py", "test_optimizers_as_published.py"
NETWORKS, CONTEXT, DATA = "test_networks_as_published.py", "test_context_as_published.py", "test_data_as_published.py"

Point = tuple[str, str, tuple[str, ...], str]
"""What it is about, what is published, the parameters that say what is done here, and the test: `file::function`."""

SCHEDULE = ("lr", "schedule", "lr_floor", "lr_changes", "warmup_epochs", "warmup_from")
SGD = ("optimizer", "momentum", "nesterov", "weight_decay")
EVALUATION = "the last epoch on test; the papers' code reports the best epoch on test, which is never done here"

PAPERS: Mapping[str, tuple[tuple[str, str, Mapping[str, object]], list[Point]]] = {
    "InfoPro (ICLR 2021), ResNet-110 in 4 modules, CIFAR-10": (
        (
            "infopro_table2",
            "InfoPro, contrast",
            {"dataset": "cifar10", "backbone": "resnet110", "num_blocks": 4},
        ),
        [
            (
                "network",
                "1×1 convolution and BN as shortcut, normal fan-out weights",
                ("backbone", "backbone_options"),
                f"{NETWORKS}::test_the_shortcut_of_infopros_resnets",
            ),
            (
                "parameters",
                "1,730,714 (ResNet-32: 466,906)",
                ("backbone_options",),
                f"{NETWORKS}::test_networks_have_as_many_weights_as_published",
            ),
            (
                "cuts",
                "(1,11) (2,7) (3,3)",
                ("cuts", "num_blocks"),
                "test_cuts.py::test_infopros_cuts_divide_the_residual_blocks_as_published",
            ),
            (
                "loss",
                "α·BCE + β·SupCon at 0.07, anchors without positives counted; (1, 0, 0, 1)",
                ("options",),
                f"{LOSSES}::test_contrast",
            ),
            (
                "head",
                "1c2f and decoder, normal fan-out weights",
                ("options",),
                f"{NETWORKS}::test_infopros_heads",
            ),
            (
                "optimizer",
                "SGD, Nesterov 0.9, decay 1e-4",
                SGD,
                "test_methods.py::test_transparency",
            ),
            (
                "schedule",
                "0.8; cosine over all 160 epochs to 0, blended in from 0.01 over ten, by epoch",
                ("epochs", *SCHEDULE),
                f"{OPTIMIZERS}::test_infopros_learning_rates",
            ),
            (
                "augmentation",
                "pad 4 reflected, crop, mirror",
                ("augment", "batch_size"),
                f"{DATA}::test_cifar_and_stl_are_mirrored",
            ),
            (
                "input scaling",
                "mean 125.3, 123.0, 113.9, deviation 63.0, 62.1, 66.7 of 255",
                ("scaling",),
                f"{DATA}::test_scaling_is_that_of_the_code",
            ),
            (
                "evaluation",
                EVALUATION,
                ("val_fraction",),
                "test_results.py::test_choices_are_made_on_validation_and_never_on_test",
            ),
        ],
    ),
    "InfoPro (ICLR 2021), ResNet-110 in 4 modules, SVHN": (
        (
            "infopro_table2",
            "InfoPro, contrast",
            {"dataset": "svhn", "num_blocks": 4},
        ),
        [
            ("loss", "(α₁, β₁, α₂, β₂) = (5, 0, 0.5, 1)", ("options",), f"{LOSSES}::test_contrast"),
            (
                "augmentation",
                "pad 2 with black, crop, never mirrored",
                ("augment",),
                f"{DATA}::test_svhn_is_never_mirrored_and_moves_two_pixels",
            ),
            ("input scaling", "0.5, 0.5", ("scaling",), f"{DATA}::test_scaling_is_that_of_the_code"),
        ],
    ),
    "ContSup (IEEE TAI 2025), R1E, ResNet-32 in 16 modules, CIFAR-10": (
        ("contsup_table1", "softmax", {"num_blocks": 16, "context": "R1E"}),
        [
            (
                "network",
                "as InfoPro's",
                ("backbone", "backbone_options", "cuts"),
                f"{NETWORKS}::test_the_shortcut_of_infopros_resnets",
            ),
            (
                "parameters",
                "encoders with biases: 3→12→C by 3×3, C'→C by 1×1",
                ("context_options",),
                f"{NETWORKS}::test_contsups_encoders",
            ),
            (
                "context",
                "R reads inputs after context was added; beside E nothing of the image",
                ("context", "context_options"),
                f"{CONTEXT}::test_the_walk_is_contsups",
            ),
            (
                "loss",
                "cross-entropy of 1c2f, weight 1, no decoder (ResNet-110: InfoPro's)",
                ("options",),
                f"{CONTEXT}::test_contsup_without_infopro_has_no_decoder",
            ),
            ("optimizer", "SGD, Nesterov 0.9, decay 1e-4", SGD, "test_methods.py::test_transparency"),
            (
                "schedule",
                "as InfoPro's",
                ("epochs", *SCHEDULE),
                f"{OPTIMIZERS}::test_infopros_learning_rates",
            ),
            ("augmentation", "as InfoPro's", ("augment",), f"{DATA}::test_cifar_and_stl_are_mirrored"),
            (
                "evaluation",
                EVALUATION,
                ("val_fraction",),
                "test_results.py::test_choices_are_made_on_validation_and_never_on_test",
            ),
        ],
    ),
    "DeInfoReg (Neurocomputing 2025), ResNet-18 in 4 blocks, CIFAR-100": (
        ("deinforeg_cifar100", "DeInfoReg", {"backbone": "resnet18", "noise_rate": 0.0}),
        [
            ("network", "3×3 stem, PyTorch's first weights", ("backbone_options",), f"{NETWORKS}::test_first_weights"),
            (
                "parameters",
                "last projector 25.2 M, of the map before the pool",
                ("options",),
                f"{NETWORKS}::test_deinforegs_last_projector_reads_the_map",
            ),
            (
                "loss",
                "variance, invariance, covariance of rows of unit length; 0.001·CE",
                ("options",),
                "test_losses.py::test_deinforeg_paper_normalises_rows_and_scaled_does_not",
            ),
            (
                "head",
                "2048-2048-2048; unmerged classifiers 2048-2048-C",
                ("options",),
                f"{NETWORKS}::test_deinforegs_own_heads_on_its_vgg",
            ),
            (
                "optimizer",
                "LARS, η‖w‖ / ‖g + wd·w‖, momentum 0.9, decay 1e-4 but of vectors",
                ("optimizer", "trust", "momentum", "weight_decay"),
                f"{OPTIMIZERS}::test_lars_trust",
            ),
            (
                "schedule",
                "cosine from 0.2 to 0.002 over 200 epochs, by epoch",
                ("epochs", *SCHEDULE),
                f"{OPTIMIZERS}::test_deinforegs_learning_rates",
            ),
            (
                "augmentation",
                "crop 32 pad 4, mirror, jitter (.4, .4, .4, .1) with p .8, grey with p .2",
                ("augment", "batch_size"),
                "test_augment.py",
            ),
            (
                "input scaling",
                "deviations 0.2675, 0.2565, 0.2761 (CIFAR-10: .2023, .1994, .2010)",
                ("scaling",),
                f"{DATA}::test_scaling_is_that_of_the_code",
            ),
            (
                "evaluation",
                "best epoch and exit on test; here chosen on validation",
                ("val_fraction",),
                "test_results.py::test_choices_are_made_on_validation_and_never_on_test",
            ),
        ],
    ),
    "SCPL (arXiv 2602.00062), VGG in 4 blocks, CIFAR-10": (
        ("deinforeg_cifar10", "SCPL", {"backbone": "vgg-paper", "noise_rate": 0.0}),
        [
            (
                "loss",
                "Σ over positives ÷ (positives + 1), mean over all anchors, 0.1",
                ("options",),
                f"{LOSSES}::test_contrast",
            ),
            ("head", "projector Linear-ReLU-Linear, 512, 1024", ("options",), f"{LOSSES}::test_scpls_projectors"),
            (
                "parameters",
                "classifier of the last block 2048-2048-C: 4.2 M",
                ("options",),
                f"{NETWORKS}::test_scpls_own_heads",
            ),
            (
                "augmentation",
                "two crops where asked: augment=two-crops",
                ("augment",),
                f"{DATA}::test_two_crops_double_the_batch",
            ),
        ],
    ),
    "AL (Neural Computation 2021) as DeInfoReg's code has it, VGG in 4 blocks, CIFAR-10": (
        ("deinforeg_cifar10", "AL", {"backbone": "vgg-paper", "noise_rate": 0.0}),
        [
            (
                "head",
                "sigmoids; bridge flatten-2500-500, code 500; 287 M weights",
                ("options",),
                f"{NETWORKS}::test_als_own_modules_on_the_vgg",
            ),
            (
                "optimizer",
                "decoders at twice the rate in AL's own code (inverse_lr=2.0); one rate in DeInfoReg's",
                ("options",),
                f"{OPTIMIZERS}::test_als_decoder_learns_at_its_own_rate",
            ),
        ],
    ),
    "FDG (IEEE TNNLS 2021), WRN-28-10 in 2 modules, CIFAR-10": (
        ("fdg_table", "FDG, β = 0.7", {"backbone": "wrn28", "dataset": "cifar10"}),
        [
            (
                "network",
                "biases, stride in the second convolution, raw shortcut",
                ("backbone_options",),
                f"{NETWORKS}::test_fdgs_wide_block",
            ),
            (
                "parameters",
                "36,489,290",
                ("backbone",),
                f"{NETWORKS}::test_networks_have_as_many_weights_as_published",
            ),
            ("cuts", "layer2[2]", ("cuts", "num_blocks"), f"{NETWORKS}::test_fdgs_and_ddgs_cuts"),
            ("loss", "gradients times β at each boundary, today's weights", ("options",), "test_delayed.py"),
            ("optimizer", "SGD 0.9, no Nesterov, decay 5e-4", SGD, "test_methods.py::test_transparency"),
            (
                "schedule",
                "0.1, ÷10 after 150, 225, 275 of 300 epochs",
                ("epochs", *SCHEDULE),
                f"{OPTIMIZERS}::test_fdgs_learning_rates",
            ),
            (
                "augmentation",
                "crop with pad 4, mirror",
                ("augment", "batch_size"),
                f"{DATA}::test_cifar_and_stl_are_mirrored",
            ),
            (
                "input scaling",
                "deviations .2023, .1994, .2010",
                ("scaling",),
                f"{DATA}::test_scaling_is_that_of_the_code",
            ),
            (
                "evaluation",
                "median of 3 runs; `python -m workflow.batch paper fdg_table` gives it",
                ("val_fraction",),
                "test_results.py::test_choices_are_made_on_validation_and_never_on_test",
            ),
        ],
    ),
    "DGL (ICML 2020) beside FDG, ResNet-56 in 2 modules, CIFAR-10": (
        ("fdg_table", "DGL", {"backbone": "resnet56", "dataset": "cifar10", "num_blocks": 2}),
        [
            (
                "head",
                "mlp-sr: 846 k weights at 128 channels (mlp 796 k, cnn 301 k)",
                ("options",),
                f"{LOSSES}::test_dgls_auxiliary_nets_have_the_published_weights",
            ),
        ],
    ),
}


def main() -> None:
    with atomic(PAGE) as draft:
        draft.write_text(page())
    print(f"written to {PAGE}")


def page() -> str:
    """Return the page: for each paper a table of points."""
    lines = ["# Conformance", "", "Written by `python -m workflow.conformance` from the experiment files.", ""]
    for title, (where, points) in PAPERS.items():
        name, case, values = where
        parameters = cell(name, case, values)
        lines += [
            f"## {title}",
            "",
            f"`{name}`, {case}",
            "",
            "| point | published | here | test |",
            "|---|---|---|---|",
        ]
        for point, published, names, test in points:
            lines.append(f"| {point} | {published} | {'; '.join(said(parameters, names))} | `{test}` |")
        lines.append("")
    return "\n".join(lines)


def cell(name: str, case: str, values: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters of the experiment's first cell of that case with these values."""
    cells = read(name, checked=True).cells().values()
    return next(c["parameters"] for c in cells if c["case"] == case and values.items() <= c["parameters"].items())


def said(parameters: Mapping[str, object], names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        value = parameters[name]
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        yield f"{name} {text}" if not isinstance(value, list) or not text else f"{text}"


if __name__ == "__main__":
    main()
