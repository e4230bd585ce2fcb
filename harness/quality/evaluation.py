"""Samples in, numbers with identities out: one pass over the images serves every protocol that is asked for.

check what can be checked -> load extractors -> reference -> one pass over the samples -> metrics -> findings
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from arvbench.errors import ContractError, HostError, UnknownName, UserError
from arvbench.harness.jobs import Event, EventListener
from arvbench.harness.machine.environment import tf32_allowed
from arvbench.harness.quality.detectors import Evidence, MetricFacts, find
from arvbench.harness.quality.extractors.extractor import Extractor, ExtractorFiles, load_extractor
from arvbench.harness.quality.features.chunks import LayerRequest, PassOver, Scan, folder_name, scan, task_key
from arvbench.harness.quality.identity import Identity
from arvbench.harness.quality.images.source import ImageSource
from arvbench.harness.quality.protocols.numbers import FEWEST_PER_CLASS
from arvbench.harness.quality.protocols.protocol import (
    PROTOCOLS,
    EvaluationProtocol,
    MetricInputs,
    MetricValue,
    Options,
    Reads,
)
from arvbench.harness.quality.reference import Reference, check_resolution, load_reference, reference_files
from arvbench.results.schema import Finding, Quality

FAILED = "failed"
"""Code of the finding about a protocol that failed while others did not."""
OPTIONAL = frozenset({"fid-infinity", "label-accuracy", "per-class-fid"})
"""Metrics that are left out, with a finding, where they cannot be computed and were not asked for by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """What to compute."""

    protocols: tuple[str, ...]
    reference: str | None = None
    """Name of a data set, or path of statistics or images."""
    metrics: tuple[str, ...] = ()
    """Of those protocols; empty means all that they have."""
    options: Options = field(default_factory=Options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What came out."""

    numbers: tuple[Quality, ...]
    """In the order of the protocols, then of their metrics."""
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolRun:
    """One protocol with the metrics that are asked of it."""

    protocol: EvaluationProtocol
    metrics: tuple[str, ...]
    extractor: Extractor

    @property
    def reference_metrics(self) -> list[str]:
        return [metric for metric in self.metrics if metric in self.protocol.reference_metrics]


def evaluate(
    source: ImageSource,
    asked: EvaluationRequest,
    *,
    extractor_files: ExtractorFiles | None = None,
    device: torch.device | str = "cpu",
    work: Path | None = None,
    works: Path | None = None,
    pass_over: PassOver | None = None,
    reference_pass: PassOver | None = None,
    recipe: Mapping[str, str] | None = None,
    listener: EventListener | None = None,
) -> Evaluation:
    """Measure `source` under every protocol of `asked`.

    `work` keeps finished chunks of features, for a second run after an interruption; `works` is a folder for such
    folders, one for each task. `pass_over` and `reference_pass` may share the samples and the reference's images among
    processes. `recipe` is what is stated about the official samples of this model (for the detectors).

    Raises UserError for what the caller can put right: unknown names, too few images, no reference, another resolution,
    missing weights; a metric that was asked for by name is computed or is an error, never left out. Only when one of
    several protocols fails on its features, those of the others are returned, and a finding "failed" says why.
    """
    tell: EventListener = listener or (lambda _event: None)
    chosen = choose_metrics(asked)
    _check_counts(chosen, source)
    _check_reference_given(chosen, asked)
    for name, metrics in chosen:
        PROTOCOLS[name].check(metrics)
    tell(Event(phase="extractors"))
    extractors = {
        name: load_extractor(name, device=device, extractor_files=extractor_files)
        for name in dict.fromkeys(PROTOCOLS[protocol].extractor for protocol, _ in chosen)
    }
    for extractor in extractors.values():
        extractor.check_size(*source.shape)
    parts = [
        ProtocolRun(protocol=PROTOCOLS[name], metrics=metrics, extractor=extractors[PROTOCOLS[name].extractor])
        for name, metrics in chosen
    ]
    reference = _reference(parts, asked, source, reference_pass, tell)
    parts, left_out = _without_impossible(parts, asked, source, reference)
    wanted = _wanted(parts)
    if works is not None:
        work = works / folder_name(task_key(source, wanted))
    scanned = _pass(source, wanted, work, pass_over, tell)
    measured, failed = _measure_all(parts, source, scanned, reference, asked, tell)
    evidence = _evidence(source, scanned, reference, measured, recipe, extractors.values())
    return Evaluation(numbers=tuple(evidence.numbers), findings=(*failed, *left_out, *find(evidence)))


def choose_metrics(asked: EvaluationRequest) -> list[tuple[str, tuple[str, ...]]]:
    """(protocol, its metrics that are asked for), in order. Raises UnknownName, naming near misses."""
    if not asked.protocols:
        raise UserError(f"no protocol is named; known: {', '.join(PROTOCOLS)}")
    names = list(dict.fromkeys(asked.protocols))
    known = dict.fromkeys(metric for name in names for metric in PROTOCOLS[name].metrics)
    for metric in asked.metrics:
        if metric not in known:
            raise UnknownName(f"metric of {', '.join(names)}", metric, known)
    chosen = [(name, tuple(m for m in PROTOCOLS[name].metrics if m in (asked.metrics or known))) for name in names]
    if idle := [name for name, metrics in chosen if not metrics]:
        raise UserError(f"protocol {idle[0]} has none of the metrics {', '.join(asked.metrics)}: leave it out")
    return chosen


def _check_counts(chosen: Sequence[tuple[str, tuple[str, ...]]], source: ImageSource) -> None:
    for name, metrics in chosen:
        for metric in metrics:
            least = PROTOCOLS[name].metrics[metric]
            if source.count < least and metric not in OPTIONAL:
                raise UserError(f"{metric} of {name} needs at least {least} samples, {source.name} has {source.count}")


def _check_reference_given(chosen: Sequence[tuple[str, tuple[str, ...]]], asked: EvaluationRequest) -> None:
    needing = [f"{m} of {name}" for name, metrics in chosen for m in metrics if m in PROTOCOLS[name].reference_metrics]
    if needing and asked.reference is None:
        raise UserError(
            f"{needing[0]} compares the samples with a reference: name one with --reference (a statistics file, "
            "images, or digits), or ask for metrics that need none"
        )


def _reference(
    parts: Sequence[ProtocolRun],
    asked: EvaluationRequest,
    source: ImageSource,
    pass_over: PassOver | None,
    tell: EventListener,
) -> Reference | None:
    needs = _needs(parts)
    if asked.reference is None:
        return None
    reference_files(asked.reference)  # one that is not there is an error also where no metric needs it
    if not needs:
        return None
    tell(Event(phase="reference"))
    reference = load_reference(
        asked.reference,
        needs,
        progress=lambda done: tell(Event(phase="reference", done=done)),
        samples_shape=source.shape,
        pass_over=pass_over,
    )
    check_resolution(reference, source.shape)
    for part in parts:
        _check_reference_count(part, reference)
    for extractor, layers in needs:
        for layer in layers:
            reference.data[extractor.name].moments(layer)  # an error here costs no pass over the samples
    return reference


def _needs(parts: Sequence[ProtocolRun]) -> list[tuple[Extractor, Mapping[str, Reads]]]:
    """What is read of the reference, by extractor: features include moments."""
    needs: dict[str, dict[str, Reads]] = {}
    for part in parts:
        if not part.reference_metrics:
            continue
        layers = needs.setdefault(part.extractor.name, {})
        for layer, need in part.protocol.reference_layers(part.reference_metrics).items():
            if layers.get(layer) != "features":
                layers[layer] = need
    by_name = {part.extractor.name: part.extractor for part in parts}
    return [(by_name[name], layers) for name, layers in needs.items()]


def _check_reference_count(part: ProtocolRun, reference: Reference) -> None:
    for metric in part.reference_metrics:
        needs_images = "features" in part.protocol.reference_layers([metric]).values()
        count, least = reference.images, part.protocol.metrics[metric]
        if needs_images and count < least and metric not in OPTIONAL:
            raise UserError(
                f"{metric} of {part.protocol.name} needs at least {least} reference images, {reference.name} has "
                f"{count}"
            )


def _without_impossible(
    parts: Sequence[ProtocolRun], asked: EvaluationRequest, source: ImageSource, reference: Reference | None
) -> tuple[list[ProtocolRun], list[Finding]]:
    """Leave out optional metrics that cannot be computed; one that was asked for by name is an error instead."""
    kept: list[ProtocolRun] = []
    findings: list[Finding] = []
    for part in parts:
        metrics = []
        for metric in part.metrics:
            reason = _why_not(metric, part, source, reference)
            if reason is None:
                metrics.append(metric)
            elif metric in asked.metrics or len(part.metrics) == 1:
                which = metric if metric == part.protocol.name else f"{metric} of {part.protocol.name}"
                raise UserError(f"{which}: {reason}")
            else:
                text = f"{metric} of {part.protocol.name} is not computed: {reason}"
                findings.append(Finding(code="left-out", severity="note", text=text))
        kept.append(ProtocolRun(protocol=part.protocol, metrics=tuple(metrics), extractor=part.extractor))
    return kept, findings


def _why_not(metric: str, part: ProtocolRun, source: ImageSource, reference: Reference | None) -> str | None:
    """Why an optional metric cannot be computed; None when it can."""
    if metric not in OPTIONAL:
        return None
    least = part.protocol.metrics[metric]
    if source.count < least:
        return f"it needs at least {least} samples, {source.name} has {source.count}"
    if metric == "label-accuracy":
        return _why_no_accuracy(source, part.extractor)
    if metric == "per-class-fid":
        return _why_no_classes(source.labels_N, None if reference is None else reference.labels_M)
    return None


def _why_no_classes(labels_N: Tensor | None, labels_M: Tensor | None) -> str | None:
    if labels_N is None or labels_M is None:
        return f"the {'samples' if labels_N is None else 'reference'} have no labels"
    both = set(labels_N.tolist()) & set(labels_M.tolist())
    if any(min(int((labels == c).sum()) for labels in (labels_N, labels_M)) >= FEWEST_PER_CLASS for c in both):
        return None
    return f"no class has {FEWEST_PER_CLASS} images among the samples and in the reference"


def _why_no_accuracy(source: ImageSource, extractor: Extractor) -> str | None:
    if source.labels_N is None:
        return f"{source.name} has no labels"
    if extractor.classes is None:
        return f"extractor {extractor.name} does not know the samples' classes"
    outside = source.labels_N[(source.labels_N < 0) | (source.labels_N >= extractor.classes)]
    if len(outside):
        return f"label {int(outside[0])} is not one of the {extractor.classes} classes of {extractor.name}"
    return None


def _wanted(parts: Sequence[ProtocolRun]) -> LayerRequest:
    """Extractors with all layers that are read of the samples."""
    layers: dict[str, frozenset[str]] = {}
    for part in parts:
        name = part.extractor.name
        layers[name] = layers.get(name, frozenset()) | part.protocol.layers(part.metrics)
    by_name = {part.extractor.name: part.extractor for part in parts}
    return [(by_name[name], wanted_layers) for name, wanted_layers in layers.items()]


def _pass(
    source: ImageSource, wanted: LayerRequest, work: Path | None, pass_over: PassOver | None, tell: EventListener
) -> Scan:
    def progress(done: int) -> None:
        tell(Event(phase="samples", done=done, total=source.count))

    if pass_over is not None:
        return pass_over(source, wanted, work, progress)
    return scan(source, wanted, work=work, progress=progress)


def _measure_all(
    parts: Sequence[ProtocolRun],
    source: ImageSource,
    scanned: Scan,
    reference: Reference | None,
    asked: EvaluationRequest,
    tell: EventListener,
) -> tuple[list[tuple[MetricFacts, Quality]], list[Finding]]:
    """The numbers of all protocols; one that fails loses none of the others."""
    measured: list[tuple[MetricFacts, Quality]] = []
    failures: list[tuple[str, UserError | HostError]] = []
    for part in parts:
        try:
            measured += _measure(part, source, scanned, reference, asked, tell)
        except (UserError, HostError) as error:
            failures.append((part.protocol.name, error))
    if failures and not measured:
        raise failures[0][1]
    found = [
        Finding(code=FAILED, severity="warning", text=f"{name} has no numbers: {error}") for name, error in failures
    ]
    return measured, found


def _measure(
    part: ProtocolRun,
    source: ImageSource,
    scanned: Scan,
    reference: Reference | None,
    asked: EvaluationRequest,
    tell: EventListener,
) -> list[tuple[MetricFacts, Quality]]:
    """The numbers of one protocol, and of each what the detectors need to know."""
    tell(Event(phase="metrics", note=part.protocol.name))
    compared = MetricInputs(
        samples=scanned.features[part.extractor.name],
        reference=None if reference is None else reference.data.get(part.extractor.name),
        extractor=part.extractor,
        labels_N=source.labels_N,
        balanced=source.provenance.labels.startswith("balanced"),
        reference_labels_M=None if reference is None else reference.labels_M,
    )
    numbers = part.protocol.measure(part.metrics, compared, asked.options)
    return [(_facts(number, part), _quality(number, part, source, reference)) for number in numbers]


def _facts(number: MetricValue, part: ProtocolRun) -> MetricFacts:
    return MetricFacts(
        protocol=part.protocol.name,
        metric=number.metric,
        minimum=part.protocol.metrics[number.metric],
        dims=part.extractor.layers[number.layer],
    )


def _quality(number: MetricValue, part: ProtocolRun, source: ImageSource, reference: Reference | None) -> Quality:
    """Make the record of one number, with its identity."""
    extractor, provenance = part.extractor, source.provenance
    if not math.isfinite(number.value):
        raise ContractError(f"{number.metric} of {part.protocol.name} on {source.name} is {number.value}")
    against = reference if number.uses_reference else None
    identity = Identity(
        metric=number.metric,
        protocol=part.protocol.name,
        extractor=extractor.name,
        extractor_sha256=extractor.sha256,
        layer=number.layer,
        preprocessing=f"{extractor.preprocessing}; batch {extractor.batch}",
        reference_sha256=against.sha256 if against else "",
        n_samples=source.count,
        image_shape=source.shape,
        label_scheme=provenance.labels,
        uint8_rule=provenance.uint8_rule,
        resize=provenance.resize,
        sampling=provenance.sampling,
        library=number.library,
        parameters=number.parameters,
    )
    words = f"{part.protocol.name}: {number.metric} ({extractor.name}, {number.layer})"
    return Quality(
        metric=number.metric,
        value=number.value,
        spread=number.spread,
        interval=number.interval,
        protocol=f"{words}{f' against {against.name}' if against else ''}, {number.library}",
        protocol_id=identity.id,
        n_samples=source.count,
        detail={**number.detail, **({"parameters": dict(number.parameters)} if number.parameters else {})},
        note="; ".join(text for text in (provenance.note, extractor.note, *number.notes) if text),
    )


def _evidence(
    source: ImageSource,
    scanned: Scan,
    reference: Reference | None,
    measured: Sequence[tuple[MetricFacts, Quality]],
    recipe: Mapping[str, str] | None,
    extractors: Collection[Extractor],
) -> Evidence:
    return Evidence(
        samples=source.name,
        count=source.count,
        shape=source.shape,
        provenance=source.provenance,
        digests_ND=scanned.digests_ND,
        histogram=scanned.histogram,
        images_sha256=scanned.images_sha256,
        metrics=[facts for facts, _ in measured],
        numbers=[quality for _, quality in measured],
        labels_N=source.labels_N,
        seeds_N=source.seeds_N,
        classes=next((extractor.classes for extractor in extractors if extractor.classes), None),
        reference=reference,
        recipe=recipe or {},
        files=source.files,
        tf32=source.drawn_here and any(tf32_allowed(extractor.device) for extractor in extractors),
        autocast=source.drawn_here and (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")),
    )
