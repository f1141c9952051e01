"""Rows of the engine's benchmarks in, their tables and plots out.

    python benchmarks/growth.py > benchmarks/results/growth.json
    python benchmarks/report.py

Remakes the tables in benchmarks/README.md and docs/images/benchmark-*.png from the rows that lie in
benchmarks/results, a file a benchmark; one that has none is said to be not measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from markdown import markdown_table, write_between

HERE = Path(__file__).parent
MARKERS = "<!-- benchmarks: made by benchmarks/report.py -->", "<!-- benchmarks: end -->"
Row = Mapping[str, Any]


def main() -> None:
    """Reads all rows, writes tables and plots."""
    sections = [_section(name) for name in BENCHMARKS]
    write_between(HERE / "README.md", "\n\n".join(sections), markers=MARKERS)


def _section(name: str) -> str:
    path = HERE / "results" / f"{name}.json"
    if not path.exists():
        return f"### {name}\n\nNot measured."
    row = json.loads(path.read_text())
    table, plot = BENCHMARKS[name]
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    plot(axes, row)
    image = HERE.parent / "docs" / "images" / f"benchmark-{name}.png"
    figure.savefig(image, dpi=100)
    plt.close(figure)
    machine = row["machine"]
    versions = ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
    about = f"Commit {machine['commit']}; {machine['processor']}, {machine['cores']} cores; {versions}."
    return f"### {name}\n\n{table(row)}\n\n{about}\n\n![{name}](../docs/images/{image.name})"


def _table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Of some columns, by their titles."""
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    return markdown_table(list(columns.values()), cells)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _kernel_table(row: Row) -> str:
    """The share of a bfloat16 matrix product is of rows on a GPU: most CPUs only imitate that precision."""
    columns = {
        "engine": "engine", "filters": "filters", "window_px": "window, px", "precision": "precision",
        "delivered_mpx_s": "delivered Mpx/s", "tflop_s": "TFLOP/s", "matmul_share": "of matrix product",
        "ratio_to_pytorch": "x PyTorch", "within_one_code": "codes within one",
    }  # fmt: skip
    on_gpu = {name for name, engine in row["engines"].items() if not engine["device"].startswith("cpu")}
    rows = [one if one["engine"] in on_gpu else {**one, "matmul_share": None} for one in row["rows"]]
    return _table(rows, columns)


def _kernel_plot(axes: Axes, row: Row) -> None:
    cases = [f"{one['filters']} f, {one['window_px']} px,\n{one['precision']}" for one in row["rows"]]
    for engine in row["engines"]:
        of_engine = [
            (case, one["delivered_mpx_s"])
            for case, one in zip(cases, row["rows"], strict=True)
            if one["engine"] == engine
        ]
        axes.plot(*zip(*of_engine, strict=True), "o", label=engine)
    axes.set(ylabel="delivered Mpx/s", yscale="log", title="The network alone")
    axes.tick_params(axis="x", labelsize=6)
    axes.legend(fontsize=7)


def _pipeline_table(row: Row) -> str:
    named = [{"name": name, **one} for name, one in row["contenders"].items()]
    columns = {
        "name": "contender", "seconds": "s", "mpx_per_s": "Mpx/s", "gpu_share": "of the sleeping GPU",
        "most_off": "most off the whole image", "share_off_0.01": "share off by 0.01",
    }  # fmt: skip
    ratios = ", ".join(f"{ratio} x {name}" for name, ratio in row["coseis_over"].items())
    size = " x ".join(map(str, row["shape"]))
    end_to_end = f"{row['seconds_over_parts']} of the sum of its parts end to end"
    return (
        f"{size} px, medians of {row['rounds']}. coseis: {ratios}; {end_to_end}.\n\n{_table(named, columns)}"
    )


def _pipeline_plot(axes: Axes, row: Row) -> None:
    names = [name for name in row["contenders"] if name not in ("parts", "asleep")]
    axes.barh(names[::-1], [row["contenders"][name]["mpx_per_s"] for name in names[::-1]])
    axes.set(xlabel="Mpx/s", title="A scene from COG to Zarr")


def _read_table(row: Row) -> str:
    readers = list(row["cases"][0]["mb_s"])
    rows = [
        {**case, **{f"mb_{name}": case["mb_s"][name] for name in readers}}
        | {f"x_{name}": ratio for name, ratio in case["ratios"].items()}
        for case in row["cases"]
    ]
    columns = {"access": "access", "grid": "grid"}
    columns |= {f"mb_{name}": f"{name}, MB/s" for name in readers}
    columns |= {f"x_{name}": f"x {name}" for name in readers if name != "coseis"}
    return _table(rows, columns | {"amplification_with_halo": "amplification with halos"})


def _read_plot(axes: Axes, row: Row) -> None:
    readers = list(row["cases"][0]["mb_s"])
    width = 0.8 / len(readers)
    for number, name in enumerate(readers):
        places = [place + number * width for place in range(len(row["cases"]))]
        axes.bar(places, [case["mb_s"][name] for case in row["cases"]], width, label=name)
    axes.set_xticks(range(len(row["cases"])), [f"{case['access']}, {case['grid']}" for case in row["cases"]])
    axes.set(ylabel="MB/s of float32", title="Files of four bands to arrays")
    axes.legend(fontsize=7)


def _growth_table(row: Row) -> str:
    columns = {
        "chunks": "chunks", "seconds": "s", "seconds_per_chunk": "s a chunk",
        "predict_tasks_per_chunk": "tasks a chunk, predict", "other_tasks_per_chunk": "tasks a chunk, others",
        "client_and_scheduler_peak_mib": "client and scheduler, MiB", "worker_peak_mib": "worker, MiB",
    }  # fmt: skip
    region = row["region"]
    return (
        f"{_table(row['areas'], columns)}\n\nSeconds a chunk, last over first: "
        f"{row['seconds_per_chunk_last_over_first']}; peak memory of the worker: "
        f"{row['worker_peak_last_over_first']}. Medians of {row['rounds']}.\n\n"
        f"A plan of {region['chunks']:,} chunks has its first after "
        f"{region['first_chunk_s']} s, the client and the scheduler (one process) take "
        f"{region['client_and_scheduler_peak_mib']:.0f} MiB then."
    )


def _growth_plot(axes: Axes, row: Row) -> None:
    chunks = [area["chunks"] for area in row["areas"]]
    axes.loglog(chunks, [area["seconds"] for area in row["areas"]], "o-", label="seconds")
    axes.loglog(chunks, [area["worker_peak_mib"] for area in row["areas"]], "s-", label="worker, MiB")
    axes.set(xlabel="chunks", title="What the engine costs")
    axes.legend(fontsize=7)


def _workers_table(row: Row) -> str:
    columns = {
        "workers": "workers", "chunks": "chunks", "seconds": "s", "efficiency": "efficiency",
        "scheduler_transitions_per_s": "scheduler transitions/s",
    }  # fmt: skip
    two = f"Two real processes over one: efficiency {row['efficiency_of_2_processes']}."
    return f"{_table(row['sleeping'], columns)}\n\n{two}"


def _workers_plot(axes: Axes, row: Row) -> None:
    sleeping = row["sleeping"]
    axes.plot([one["workers"] for one in sleeping], [one["efficiency"] for one in sleeping], "o-")
    axes.set(xlabel="workers", ylabel="efficiency", xscale="log", ylim=(0, 1.05), title="Sleeping GPUs")
    axes.set_xticks([one["workers"] for one in sleeping], [str(one["workers"]) for one in sleeping])
    axes.minorticks_off()


def _throughput_table(row: Row) -> str:
    columns = {
        "threads": "threads", "core_px": "core, px", "batch": "batch", "precision": "precision",
        "mpx_per_s": "Mpx/s a worker", "km2_per_s": "km2/s a worker", "network_share": "network at work",
        "gpu_share": "GPU busy",
    }  # fmt: skip
    size = " x ".join(map(str, row["shape"]))
    workers = f"a worker for each of {row['gpus']} GPUs" if row["gpus"] else "no GPU, a worker on the CPU"
    about = f"{row['filters']} filters, {size} px; {workers}."
    return f"{about}\n\n{_table(row['rows'], columns)}"


def _throughput_plot(axes: Axes, row: Row) -> None:
    names = [
        f"{one['threads']} threads, {one['core_px']} px x {one['batch']}, {one['precision']}"
        for one in row["rows"]
    ]
    axes.barh(names[::-1], [one["mpx_per_s"] for one in row["rows"]][::-1])
    axes.set(xlabel="delivered Mpx/s", title="A worker, end to end")
    axes.tick_params(axis="y", labelsize=6)


def _vectors_table(row: Row) -> str:
    columns = {
        "polygons": "polygons", "trace_s": "trace, s", "merge_s": "merge, s", "parquet_s": "GeoParquet, s",
        "tiles_s": "tiles, s", "tiles_mib": "tiles, MiB", "peak_gib": "peak, GiB",
    }  # fmt: skip
    return _table(row["rows"], columns)


def _vectors_plot(axes: Axes, row: Row) -> None:
    polygons = [one["polygons"] for one in row["rows"]]
    for part in ("trace_s", "merge_s", "parquet_s", "tiles_s"):
        axes.loglog(polygons, [one[part] for one in row["rows"]], "o-", label=part.removesuffix("_s"))
    axes.set(xlabel="polygons", ylabel="s", title="Polygons")
    axes.legend(fontsize=7)


def _training_speed_table(row: Row) -> str:
    columns = {
        "keras_mpx_s": "Keras, Mpx/s", "coseis_mpx_s": "coseis, Mpx/s", "ratio": "ratio",
        "waiting_share": "share of time waiting for patches",
    }  # fmt: skip
    rounds = ", ".join(f"{ratio:.3g}" for ratio in row["ratios"])
    about = (
        f"{row['filters']} filters, {row['batch']} windows of {row['window_px']} px a step, {row['steps']} "
        f"steps a round, patches made by {row['workers']} worker process. Ratios of the rounds: {rounds}."
    )
    return f"{about}\n\n{_table([row], columns)}"


def _training_speed_plot(axes: Axes, row: Row) -> None:
    names = ("coseis", "keras")
    axes.barh(names, [row[f"{name}_mpx_s"] for name in names])
    axes.set(xlabel="Mpx/s", title="A train step")


BENCHMARKS: dict[str, tuple[Callable[[Row], str], Callable[[Axes, Row], None]]] = {
    "kernel": (_kernel_table, _kernel_plot),
    "pipeline": (_pipeline_table, _pipeline_plot),
    "read": (_read_table, _read_plot),
    "growth": (_growth_table, _growth_plot),
    "workers": (_workers_table, _workers_plot),
    "throughput_per_gpu": (_throughput_table, _throughput_plot),
    "vectors": (_vectors_table, _vectors_plot),
    "training_speed": (_training_speed_table, _training_speed_plot),
}

if __name__ == "__main__":
    main()
