"""Settings: a YAML file and options are one thing, and every mistake is named as it was written."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coseis.config import (
    ClusterConfig,
    MapConfig,
    ModelConfig,
    OutputConfig,
    SearchConfig,
    TerrainConfig,
    load_config,
    load_stage,
    stage_options,
)
from coseis.errors import UsageError

REQUIRED = {"catalog": "c.json", "aoi": "1,2,3,4", "event_time": "2018-09-05T18:08:00Z", "out": "run"}

# What YAML takes as plain text, with what it would take for numbers and times.
_word = st.from_regex(r"[a-f0-9][a-f0-9_.:-]{0,8}[a-f0-9]", fullmatch=True)
_words = st.lists(_word, max_size=3).map(tuple)
_configs = st.builds(
    MapConfig,
    search=st.builds(
        SearchConfig,
        catalog=_word,
        aoi=_word,
        event_time=_word,
        pre=st.none() | _word,
        collection=_words,
        include=_words,
        quality=_words,
        max_cloud=st.none() | st.floats(0, 100),
        allow_missing_pre=st.booleans(),
    ),
    model=st.builds(
        ModelConfig,
        precision=st.sampled_from(["auto", "float32", "bfloat16"]),
        core=st.none() | st.integers(),
        batch=st.integers(1, 64),
    ),
    output=st.builds(
        OutputConfig,
        out=_word,
        threshold=st.sampled_from(["card", "otsu", "isodata"]) | st.floats(0, 1),
        min_area=st.floats(0, 1e9),
        resolution=st.none() | st.floats(0.1, 100),
    ),
    cluster=st.builds(ClusterConfig, workers=st.integers(1, 99)),
    terrain=st.builds(
        TerrainConfig,
        dem=st.none() | _word,
        dem_collection=_words,
        min_slope=st.none() | st.floats(0.1, 80),
    ),
)


@dataclasses.dataclass(frozen=True)
class Wrong:
    """A file that is refused, and a piece of the message."""

    yaml: str
    said: str


def write(folder: Path, text: str) -> Path:
    path = folder / "event.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def as_option(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


@given(_configs)
def test_the_resolved_config_survives_json_and_being_read_as_a_file(tmp_path_factory, config):
    text = config.model_dump_json()
    assert MapConfig.model_validate_json(text) == config
    path = write(tmp_path_factory.getbasetemp(), text)  # JSON is YAML
    assert load_config(path, {}) == config


@given(_configs)
def test_the_same_text_means_the_same_as_option_and_in_a_file(tmp_path_factory, config):
    stages: dict[str, Any] = {}
    options = {}
    for stage, name, _ in stage_options():
        value = getattr(getattr(config, stage), name)
        if value is not None:
            options[name] = as_option(value)
            stages.setdefault(stage, {})[name] = value
    lines = [
        line
        for stage, settings in stages.items()
        for line in (f"{stage}:", *(f"  {name}: {as_option(value)}" for name, value in settings.items()))
        if not line.endswith(": ")  # an empty list has no plain text
    ]
    options = {name: text for name, text in options.items() if text}
    path = write(tmp_path_factory.getbasetemp(), "\n".join(lines))
    assert load_config(path, {}) == load_config(None, options)


def test_options_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    path = write(
        tmp_path,
        "search: {catalog: a, aoi: '1,2,3,4', event_time: t, max_cloud: 20}\n"
        "output: {out: there, threshold: 0.4}\n",
    )
    config = load_config(path, {"out": "here", "min_area": "50"})
    assert (config.output.out, config.output.min_area) == ("here", 50)
    assert (config.output.threshold, config.search.max_cloud) == (0.4, 20)
    assert config.cluster == ClusterConfig()


def test_a_setting_without_a_value_is_not_given(tmp_path):
    path = write(tmp_path, "cluster:\nmodel: {core: }\nsearch: {pre: ~, post: null, quality: []}\n")
    config = load_config(path, REQUIRED)
    assert (config.cluster, config.model) == (ClusterConfig(), ModelConfig())
    assert (config.search.pre, config.search.post, config.search.quality) == (None, None, ())
    assert load_config(write(tmp_path, "# nothing yet\n"), REQUIRED) == load_config(None, REQUIRED)


def test_yaml_keeps_ids_and_times_as_they_are_written(tmp_path):
    path = write(
        tmp_path,
        "search:\n"
        "  catalog: c.json\n"
        "  aoi: [141.84, 42.63, 142.14, 42.89]\n"
        "  event_time: 2018-09-06T03:08:00+09:00\n"
        "  include: [20180911_011530_1001, 0012]\n"
        "  exclude: 20180911_011530_1002, 1e5\n"
        "  allow_missing_pre: yes\n"
        "output: {out: 2018}\n",
    )
    search = load_config(path, {}).search
    assert search.aoi == "141.84,42.63,142.14,42.89"
    assert search.event_time == "2018-09-06T03:08:00+09:00"
    assert search.include == ("20180911_011530_1001", "0012")
    assert search.exclude == ("20180911_011530_1002", "1e5")
    assert search.allow_missing_pre


@pytest.mark.parametrize(
    "wrong",
    [
        Wrong("serach: {catalog: a}", "serach is not a stage; did you mean search\\?"),
        Wrong("catalog: a", "catalog is not a stage; catalog belongs under search"),
        Wrong("search: {catalgo: a}", "search.catalgo is not a setting; did you mean catalog\\?"),
        Wrong("search: {event-time: a}", "search.event-time is not a setting; did you mean event_time\\?"),
        Wrong("search: {chunk: 512}", "search.chunk is not a setting; chunk belongs under output"),
        Wrong("search: {chunks: 512}", "search.chunks is not a setting; did you mean chunk under output\\?"),
        Wrong("output: {xyzzy: 1}", "output.xyzzy is not a setting$"),
        Wrong("search: a.json", "search is 'a.json'; expected search, model, output, cluster"),
        Wrong("- search", "is no mapping; expected search, model, output, cluster"),
        Wrong("just text", "is no mapping"),
        Wrong("search: {", "cannot be read: .*line 1"),
        Wrong("search: [a\nb: c", "cannot be read"),
        Wrong("model: {precision: float16}", "model.precision is 'float16'; expected 'auto'"),
        Wrong(
            "output: {threshold: 1.5}",
            "output.threshold is '1.5'; expected 'card', .* or a probability from 0 to 1",
        ),
        Wrong("output: {threshold: nan}", "output.threshold is 'nan'; expected"),
        Wrong("output: {min_area: -1}", "output.min_area is '-1'; expected greater than or equal to 0"),
        Wrong("output: {resolution: inf}", "output.resolution is 'inf'; expected a finite number"),
        Wrong("model: {core: big}", "model.core is 'big'; expected a valid integer$"),
        Wrong("cluster: {workers: 0}", "cluster.workers is '0'; expected greater than or equal to 1"),
        Wrong("search: {catalog: {a: b}}", "search.catalog is {'a': 'b'}; expected a valid string"),
    ],
    ids=lambda wrong: wrong.yaml,
)
def test_a_mistake_in_the_file_is_named_there(tmp_path, wrong):
    path = write(tmp_path, wrong.yaml)
    # What is not in the file comes as options, so that only the mistake is left.
    with pytest.raises(UsageError, match=wrong.said) as raised:
        load_config(path, {} if "catalog: {" in wrong.yaml else REQUIRED)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_wrong_option_is_named_as_one_beside_a_good_file(tmp_path):
    path = write(tmp_path, "output: {threshold: 0.5}")
    with pytest.raises(UsageError, match=r"--threshold is '7'; expected 'card', 'otsu' or 'isodata'"):
        load_config(path, REQUIRED | {"threshold": "7"})


def test_everything_that_is_missing_is_named_at_once(tmp_path):
    with pytest.raises(UsageError, match=r"^--catalog, --aoi, --event-time, --out missing$"):
        load_config(None, {})
    path = write(tmp_path, "search: {catalog: a}")
    with pytest.raises(UsageError, match=r"event.yaml: search.event_time, output.out missing$"):
        load_config(path, {"aoi": "1,2,3,4"})


def test_an_event_file_stands_in_for_time_and_area():
    given = {"catalog": "c", "out": "run"}
    search = load_config(None, given | {"event": "grid.xml", "min_intensity": "5.5"}).search
    assert (search.aoi, search.event_time, search.min_intensity) == (None, None, 5.5)
    search = load_config(None, given | {"event": "grid.xml", "aoi": "1,2,3,4"}).search
    assert (search.aoi, search.event_time) == ("1,2,3,4", None)
    with pytest.raises(UsageError, match=r"^--aoi missing$"):
        load_config(None, given | {"event_time": "t"})
    with pytest.raises(UsageError, match=r"--min-intensity is '11'; expected less than or equal to 10"):
        load_config(None, REQUIRED | {"min_intensity": "11"})


def test_all_mistakes_are_named_at_once():
    with pytest.raises(UsageError, match=r"--out missing; --batch is '0'; .*--workers is 'x'"):
        load_config(None, {"catalog": "a", "aoi": "a", "event_time": "t", "batch": "0", "workers": "x"})


def test_an_unreadable_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"nothere.yaml cannot be read: No such file or directory$"):
        load_config(tmp_path / "nothere.yaml", {})
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        load_config(tmp_path, {})
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"search: {catalog: K\xf6ln}")
    with pytest.raises(UsageError, match=r"cannot be read: .*utf-8"):
        load_config(path, {})


def test_yaml_makes_no_objects(tmp_path):
    path = write(tmp_path, "search: {catalog: !!python/object/apply:os.getcwd []}")
    with pytest.raises(UsageError, match=r"search\.catalog is "):
        load_config(path, {name: value for name, value in REQUIRED.items() if name != "catalog"})


def test_one_stage_alone():
    search = load_stage(
        SearchConfig, {"catalog": "c", "aoi": "1,2,3,4", "event_time": "t", "quality": "a, b"}
    )
    assert search.quality == ("a", "b")
    with pytest.raises(UsageError, match=r"^--event-time missing; --max-cloud is '101'; expected less than"):
        load_stage(SearchConfig, {"catalog": "c", "aoi": "1,2,3,4", "max_cloud": "101"})
    # `model` is the name of a stage and of a setting.
    with pytest.raises(UsageError, match=r"^--model is 3; expected a valid string$"):
        load_stage(ModelConfig, {"model": 3})


def test_every_setting_has_a_help_text_and_a_name_of_its_own():
    names = [name for _, name, _ in stage_options()]
    assert len(names) == len(set(names))
    for _, name, field in stage_options():
        assert field.description, name
        assert field.description.endswith("."), name


def test_the_dumped_config_is_plain_json():
    text = load_config(None, REQUIRED | {"include": "a,b"}).model_dump_json()
    assert json.loads(text)["search"]["include"] == ["a", "b"]


@pytest.mark.parametrize(
    "address", ["local", "tcp://10.0.0.1:8786", "tls://scheduler:8786", "tcp://[::1]:8786"]
)
def test_schedulers(address):
    assert ClusterConfig(scheduler=address).scheduler == address


@pytest.mark.parametrize(
    "address", ["remote", "http://a:1", "tcp://", "tcp://host", "tcp://h:x", "tcp://h:70000", ":1"]
)
def test_a_scheduler_of_another_form_is_refused(address):
    with pytest.raises(
        UsageError,
        match=r"^--scheduler is '.*'; expected local, local-cuda, tcp://HOST:PORT or tls://HOST:PORT$",
    ):
        load_config(None, REQUIRED | {"scheduler": address})
