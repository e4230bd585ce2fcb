"""Evaluation of samples: one pass over the images serves all requested protocols.

check the request -> load extractors -> load reference -> extract features of the samples -> metrics -> findings
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from arvbench.errors import ContractError, HostError, UnknownName, UserError
from arvbench.harness.jobs import Event, EventListener, Shard
from arvbench.harness.machine.environment import tf32_allowed
from arvbench.harness.quality.detectors import Evidence, MetricFacts, find
from arvbench.harness.quality.detectors.evidence import FRECHET
from arvbench.harness.quality.extractors.extractor import Extractor
from arvbench.harness.quality.features.chunks import CHUNK, LayerRequest, Scan, chunk_count
from arvbench.harness.quality.features.feature_pass import FeaturePass
from arvbench.harness.quality.identity import Identity
from arvbench.harness.quality.images.class_folders import renumbered
from arvbench.harness.quality.images.source import ImageSource
from arvbench.harness.quality.protocols.protocol import (
    PROTOCOLS,
    EvaluationProtocol,
    Metric,
    MetricInputs,
    MetricValue,
    Options,
    reference_layers,
)
from arvbench.harness.quality.reference import Reference, load_reference, reference_files
from arvbench.harness.quality.reference.load import check_statistics
from arvbench.paths import printable
from arvbench.results.schema import Finding, Quality

FAILED = "failed"
"""Code of the finding about a protocol that failed while others succeeded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """Protocols, metrics and reference of one evaluation."""

    protocols: tuple[str, ...]
    reference: str | None = None
    """Name of a data set, or path of statistics or images."""
    class_folders: bool = False
    """The user says that the subfolders of a folder of reference images are classes."""
    metrics: tuple[str, ...] = ()
    """Metrics of those protocols; empty means all."""
    options: Options = field(default_factory=Options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Numbers, and findings about the images behind them."""

    numbers: tuple[Quality, ...]
    """In the order of the protocols, then of their metrics."""
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolRun:
    """One protocol with its requested metrics and its extractor."""

    protocol: EvaluationProtocol
    metrics: tuple[Metric, ...]
    extractor: Extractor


def evaluate(
    source: ImageSource,
    request: EvaluationRequest,
    *,
    features: FeaturePass | None = None,
    recipe: Mapping[str, str] | None = None,
    listener: EventListener | None = None,
) -> Evaluation:
    """Measure `source` under every protocol of `request`.

    `features` loads the extractors and reads the images; None means on the CPU in this process. `recipe` is that of the
    model's official samples (`Evidence.recipe`), for the detectors.

    Raises UserError for mistakes of the caller: unknown names, too few images, no reference, another resolution,
    missing weights. A metric requested by name is never left out silently: it is computed or raises. When the
    metrics of some protocols fail, those of the others are returned, and a finding "failed" gives the reason.
    """
    tell: EventListener = listener or (lambda _event: None)
    features = features or FeaturePass()
    runs, reference, left_out = _prepared(source, request, features, tell)
    scanned = features.scan(
        source, _sample_layers(runs), lambda done: tell(Event(phase="samples", done=done, total=source.count))
    )
    measured, failed = _measure_all(runs, request, source, scanned, reference, tell)
    evidence = _evidence(source, scanned, reference, measured, recipe, [run.extractor for run in runs])
    return Evaluation(numbers=tuple(evidence.numbers), findings=(*failed, *left_out, *find(evidence)))


def extract_shard(
    source: ImageSource,
    request: EvaluationRequest,
    shard: Shard,
    *,
    features: FeaturePass,
    listener: EventListener,
) -> Path:
    """Extract what `evaluate` reads of one shard of the images into the work folder, and return the folder of chunks.

    With the chunks of all shards in one folder, `evaluate` reads no image. Raises as `evaluate`.
    """
    runs, _, _ = _prepared(source, request, features, listener)
    images = shard_images(source.count, shard)
    return features.scan_part(
        source,
        _sample_layers(runs),
        shard,
        lambda done: listener(Event(phase="samples", done=done, total=len(images))),
    )


def shard_images(count: int, shard: Shard) -> range:
    """Return the image numbers of a shard of `count` images: whole chunks."""
    chunks = shard.range_of(chunk_count(count))
    return range(min(count, chunks.start * CHUNK), min(count, chunks.stop * CHUNK))


def _prepared(
    source: ImageSource, request: EvaluationRequest, features: FeaturePass, tell: EventListener
) -> tuple[list[ProtocolRun], Reference | None, list[Finding]]:
    """Load extractors and reference, and leave out what cannot be computed; return that as findings."""
    chosen = choose_metrics(request)
    _check_before_reading(chosen, request, source)
    tell(Event(phase="extractors"))
    extractors = {
        name: features.extractor(name) for name in dict.fromkeys(protocol.extractor for protocol, _ in chosen)
    }
    for extractor in extractors.values():
        extractor.check_size(*source.shape)
    runs = [
        ProtocolRun(protocol=protocol, metrics=metrics, extractor=extractors[protocol.extractor])
        for protocol, metrics in chosen
    ]
    reference = _reference(runs, request, source, features, tell)
    runs, left_out = _computable(runs, request, source, reference)
    return runs, reference, left_out


def choose_metrics(request: EvaluationRequest) -> list[tuple[EvaluationProtocol, tuple[Metric, ...]]]:
    """Return the protocols with their requested metrics, in order. Raises UnknownName, naming near misses."""
    if not request.protocols:
        raise UserError(f"no protocol is named; known: {', '.join(PROTOCOLS)}")
    protocols = [PROTOCOLS[name] for name in dict.fromkeys(request.protocols)]
    known = dict.fromkeys(metric.name for protocol in protocols for metric in protocol.metrics)
    for name in request.metrics:
        if name not in known:
            raise UnknownName(f"metric of {', '.join(dict.fromkeys(request.protocols))}", name, known)
    names = request.metrics or known
    chosen = [(protocol, tuple(m for m in protocol.metrics if m.name in names)) for protocol in protocols]
    if idle := [protocol.name for protocol, metrics in chosen if not metrics]:
        raise UserError(f"protocol {idle[0]} has none of the metrics {', '.join(request.metrics)}: leave it out")
    return chosen


def _check_before_reading(
    chosen: Sequence[tuple[EvaluationProtocol, tuple[Metric, ...]]], request: EvaluationRequest, source: ImageSource
) -> None:
    """Raise UserError or HostError for failures that are certain before weights or images are read."""
    pairs = [(protocol.name, metric) for protocol, metrics in chosen for metric in metrics]
    for protocol, metric in pairs:
        if source.count < metric.fewest and not metric.optional:
            raise UserError(
                f"{metric.name} of {protocol} needs at least {metric.fewest} samples, {source.name} has {source.count}"
            )
    comparing = [f"{metric.name} of {protocol}" for protocol, metric in pairs if metric.reads is not None]
    if comparing and request.reference is None:
        raise UserError(
            f"{comparing[0]} compares the samples with a reference: name one with --reference (a statistics file, "
            "images, or digits), or ask for metrics that need none"
        )
    for _, metric in pairs:
        if metric.check is not None:
            metric.check()


def _reference(
    runs: Sequence[ProtocolRun],
    request: EvaluationRequest,
    source: ImageSource,
    features: FeaturePass,
    tell: EventListener,
) -> Reference | None:
    """Load the reference with the layers that the metrics read; None when no metric reads one."""
    if request.reference is None:
        return None
    reference_files(request.reference)  # a missing path is an error even when no metric reads it
    extractors = {run.extractor.name: run.extractor for run in runs}
    layers_of = reference_layers((run.extractor.name, run.metrics) for run in runs)
    if not layers_of:
        return None
    alone = [run.protocol.name for run in runs if run.protocol.statistics_only and run.extractor.name in layers_of]
    check_statistics(alone, request.reference)
    tell(Event(phase="reference"))
    reference = load_reference(
        request.reference,
        [(extractors[name], layers) for name, layers in layers_of.items()],
        features=features,
        progress=lambda done: tell(Event(phase="reference", done=done)),
        samples_shape=source.shape,
        class_folders=request.class_folders,
    )
    reference = _with_classes_of(source, reference)
    for run in runs:
        for metric in run.metrics:
            if metric.reads == "features" and reference.images < metric.fewest and not metric.optional:
                raise UserError(
                    f"{metric.name} of {run.protocol.name} needs at least {metric.fewest} reference images, "
                    f"{reference.name} has {reference.images}"
                )
    for name, layers in layers_of.items():
        for layer in layers:
            reference.data[name].moments(layer)  # fail before the pass over the samples
    return reference


def _computable(
    runs: Sequence[ProtocolRun], request: EvaluationRequest, source: ImageSource, reference: Reference | None
) -> tuple[list[ProtocolRun], list[Finding]]:
    """Leave out optional metrics that cannot be computed. Raises UserError for those requested by name."""
    possible: list[ProtocolRun] = []
    findings: list[Finding] = []
    for run in runs:
        metrics = []
        for metric in run.metrics:
            reason = _why_not(metric, run.extractor, source, reference) if metric.optional else None
            name = f"{metric.name} of {run.protocol.name}"
            if reason is None:
                metrics.append(metric)
            elif metric.name in request.metrics or len(run.metrics) == 1:
                raise UserError(f"{metric.name if metric.name == run.protocol.name else name}: {reason}")
            else:
                text = f"{name} is not computed: {reason}"
                findings.append(Finding(code="left-out", severity="note", text=text))
        possible.append(replace(run, metrics=tuple(metrics)))
    return possible, findings


def _with_classes_of(source: ImageSource, reference: Reference) -> Reference:
    """Number the classes of the reference as those of the samples; drop them where they cannot be compared."""
    if source.labels_N is None or reference.labels_M is None:
        return reference
    matched = renumbered(source.class_names, reference.labels_M, reference.class_names)
    if matched is not None:
        return replace(reference, labels_M=matched.labels_M, class_names=matched.names)
    named, numbered = ("samples", "reference") if source.class_names else ("reference", "samples")
    note = f"classes of the {named} are names, those of the {numbered} numbers: they are not compared"
    return replace(reference, labels_M=None, notes=(*reference.notes, note))


def _why_not(metric: Metric, extractor: Extractor, source: ImageSource, reference: Reference | None) -> str | None:
    """Return the reason why a metric cannot be computed; None when it can."""
    if source.count < metric.fewest:
        return f"it needs at least {metric.fewest} samples, {printable(source.name)} has {source.count}"
    if metric.why_not is None:
        return None
    return metric.why_not(source, extractor, None if reference is None else reference.labels_M)


def _sample_layers(runs: Sequence[ProtocolRun]) -> LayerRequest:
    """Return the extractors with the layers that metrics read of the samples."""
    extractors = {run.extractor.name: run.extractor for run in runs}
    layers: dict[str, frozenset[str]] = {name: frozenset() for name in extractors}
    for run in runs:
        layers[run.extractor.name] |= {metric.layer for metric in run.metrics}
    return [(extractors[name], layers) for name, layers in layers.items()]


def _measure_all(
    runs: Sequence[ProtocolRun],
    request: EvaluationRequest,
    source: ImageSource,
    scanned: Scan,
    reference: Reference | None,
    tell: EventListener,
) -> tuple[list[tuple[MetricFacts, Quality]], list[Finding]]:
    """Compute the numbers of all protocols. The failure of one becomes a finding; that of all is raised."""
    measured: list[tuple[MetricFacts, Quality]] = []
    failures: list[tuple[str, UserError | HostError]] = []
    for run in runs:
        tell(Event(phase="metrics", note=run.protocol.name))
        inputs = MetricInputs(
            samples=scanned.features[run.extractor.name],
            reference=None if reference is None else reference.data.get(run.extractor.name),
            extractor=run.extractor,
            labels_N=source.labels_N,
            balanced=source.provenance.labels.startswith("balanced"),
            reference_labels_M=None if reference is None else reference.labels_M,
            class_names=() if reference is None else reference.class_names,
            options=request.options,
        )
        try:
            values = [(metric, metric.measure(inputs)) for metric in run.metrics]
        except (UserError, HostError) as error:
            failures.append((run.protocol.name, error))
            continue
        for metric, value in values:
            dims = run.extractor.layers[metric.layer]
            distance = _relative_distance(metric, value, inputs)
            facts = MetricFacts(protocol=run.protocol.name, metric=metric.name, dims=dims, distance=distance)
            measured.append((facts, _quality(metric, value, run, source, reference)))
    if failures and not measured:
        raise failures[0][1]
    return measured, [
        Finding(code=FAILED, severity="warning", text=f"{name} has no numbers: {error}") for name, error in failures
    ]


def _relative_distance(metric: Metric, number: MetricValue, inputs: MetricInputs) -> float | None:
    """Return a Frechet distance relative to the variance of the reference; None for other metrics."""
    if metric.name not in FRECHET or inputs.reference is None:
        return None
    variance = float(inputs.reference.moments(metric.layer).cov_DD.trace())
    return number.value / variance if variance > 0 else number.value


def _quality(
    metric: Metric, number: MetricValue, run: ProtocolRun, source: ImageSource, reference: Reference | None
) -> Quality:
    """Make the record of one number, with its identity."""
    extractor, provenance, name = run.extractor, source.provenance, run.protocol.name
    if not math.isfinite(number.value):
        raise ContractError(f"{metric.name} of {name} on {source.name} is {number.value}")
    against = reference if metric.reads is not None else None
    identity = Identity(
        metric=metric.name,
        protocol=name,
        extractor=extractor.name,
        extractor_sha256=extractor.sha256,
        layer=metric.layer,
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
    words = f"{name}: {metric.name} ({extractor.name}, {metric.layer})"
    return Quality(
        metric=metric.name,
        value=number.value,
        spread=number.spread,
        interval=number.interval,
        protocol=f"{words}{f' against {against.name}' if against else ''}, {number.library}",
        protocol_name=name,
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
        samples=printable(source.name),
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
        class_names=(reference.class_names if reference else ()) or source.class_names,
        # Classes with names are those of the images, not those of a network.
        classes=None
        if source.class_names
        else next((extractor.classes for extractor in extractors if extractor.classes), None),
        reference=reference,
        recipe=recipe or {},
        files=[printable(name) for name in source.files],
        tf32=source.sampled_here and any(tf32_allowed(extractor.device) for extractor in extractors),
        autocast=source.sampled_here and (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")),
    )
