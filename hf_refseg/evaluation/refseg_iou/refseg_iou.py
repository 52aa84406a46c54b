"""`evaluate.load(<this folder>)`: referring segmentation scores from intersections and unions, no mask kept."""

# One import per line and no `import a, b`: evaluate reads these lines with a regular expression.
import datasets
import evaluate

from hf_refseg.evaluation.protocols import scores_from_counts

_DESCRIPTION = """\
Overall IoU (oIoU), mean IoU (mIoU) and precision at IoU thresholds (Pr@0.5 ... Pr@0.9) of referring segmentation,
under the protocol of one's choice. Works on pixel counts, so that nothing but two integers per sentence is kept."""

_INPUTS_DESCRIPTION = """
Args:
    intersections (list of int): pixels in both the predicted and the true mask, one number per sentence.
    unions (list of int): pixels in either of the two masks, one number per sentence.
    protocol (str): "original" (default), "lavt", "vlt", "cris" or "phrasecut"; see `hf_refseg.evaluation.protocols`.
Returns:
    dict of float, in percent: oIoU, mIoU, Pr@0.5, Pr@0.6, Pr@0.7, Pr@0.8, Pr@0.9; "phrasecut" calls the first two
    cum-IoU and mean-IoU.
Examples:
    >>> metric = evaluate.load("hf_refseg/evaluation/refseg_iou")
    >>> metric.compute(intersections=[50, 30], unions=[100, 40])["mIoU"]
    62.5
"""

_CITATION = """\
@inproceedings{yang2022lavt,
    title = {LAVT: Language-Aware Vision Transformer for Referring Image Segmentation},
    author = {Yang, Zhao and Wang, Jiaqi and Tang, Yansong and Chen, Kai and Zhao, Hengshuang and Torr, Philip H.S.},
    booktitle = {CVPR},
    year = {2022}
}"""


class RefSegIoU(evaluate.Metric):
    """The scores of `hf_refseg.evaluation.scores_from_counts`, gathered over batches and processes by evaluate."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features({"intersections": datasets.Value("int64"), "unions": datasets.Value("int64")}),
        )

    def _compute(self, intersections: list[int], unions: list[int], protocol: str = "original") -> dict[str, float]:
        return scores_from_counts(intersections, unions, protocol)
