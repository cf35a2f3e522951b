"""Attacks by model files and on them; each must fail."""

import json
import os
import resource
import time

import numpy as np
import onnx as onnx_format
import pytest
from onnx import TensorProto, helper, numpy_helper

from services.fraud.model import read_model
from services.platform.models.checks.external_data import refuse_external_data
from services.platform.models.checks.probe import refuse_greedy
from services.platform.models.checks.signature import _entry, new_pair, sign, split, verified
from services.platform.models.names import CHALLENGER, CHAMPION, served_path
from services.platform.models.onnx import INPUT, OUTPUT, open_session, write_card
from services.platform.models.refused import ModelRefused
from services.platform.models.served_file import LastGood, get_served, put_served, sign_unsigned
from services.platform.models.served_model import ServedModel
from services.platform.storage.lake import Lake
from tests.conftest import card

D = "fraud"


def external(secret: str) -> onnx_format.TensorProto:
    tensor = TensorProto(name="x", data_type=TensorProto.UINT8, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", secret), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def model(*nodes, initializers=(), functions=()) -> bytes:
    out = helper.make_tensor_value_info("x", TensorProto.UINT8, [4])
    graph = helper.make_graph(list(nodes), "g", [], [out], list(initializers))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    made.functions.extend(functions)
    return made.SerializeToString()


def hiding_places(secret: str) -> dict[str, bytes]:
    """Files that read another file, by where the tensor hides."""
    there = external(secret)
    constant = helper.make_node("Constant", [], ["x"], value=there)
    output = helper.make_tensor_value_info("x", TensorProto.UINT8, [4])
    inner = helper.make_graph([constant], "i", [], [output])
    yes = numpy_helper.from_array(np.array(True), "yes")
    branch = helper.make_node("If", ["yes"], ["x"], then_branch=inner, else_branch=inner)
    opsets = [helper.make_opsetid("", 20)]
    function = helper.make_function("own", "f", [], ["x"], [constant], opsets)
    sparse = onnx_format.SparseTensorProto(values=there, dims=[4])
    found = {
        "initializer": model(initializers=[there]),
        "constant": model(constant),
        "branch": model(branch, initializers=[yes]),
        "function": model(helper.make_node("f", [], ["x"], domain="own"), functions=[function]),
        "sparse": model(helper.make_node("Constant", [], ["x"], sparse_value=sparse)),
    }
    # Protobuf merges fields that occur twice: a second graph adds its nodes to the first.
    found["second graph"] = model() + found["constant"]
    return found


@pytest.mark.parametrize("place", list(hiding_places("")))
def test_a_model_reads_no_other_file(tmp_path, monkeypatch, place):
    (tmp_path / "nats.conf").write_text("secret")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelRefused, match="external data"):
        open_session(hiding_places("nats.conf")[place], optimised=False)


@pytest.mark.parametrize("data", [b"....ORTM....", b"\xff" * 40, b"\x3a\x7f"])
def test_what_is_no_onnx_file_is_refused(data):
    with pytest.raises(ModelRefused, match="not a model"):
        open_session(data)


@pytest.mark.slow
def test_our_own_models_have_no_external_data(onnx, vision_file):
    for data in (onnx, vision_file):
        refuse_external_data(data)


@pytest.fixture
def store(config):
    """An empty store, and no last good copy."""
    made, copy = Lake(config), config.home / "models" / f"{D}-{CHAMPION}.onnx"
    copy.unlink(missing_ok=True)
    made.remove(["models"])
    yield made
    copy.unlink(missing_ok=True)
    made.remove(["models"])


def served(config) -> ServedModel:
    found = ServedModel(config, D, read_model)
    found.load()
    return found


def test_a_replaced_champion_is_not_served_and_the_last_good_survives_a_restart(
    config, store, onnx
):
    put_served(config, onnx, D, CHAMPION, 1)
    running, path = served(config), served_path(D)
    assert running.model is not None
    good = store.get(path)
    for attack in (onnx, good[:-1], good[len(onnx) :], b"", good.replace(b"xgboost", b"approve")):
        store.put(path, attack)
        running.load()
        restarted = served(config)
        assert running.refused
        assert restarted.refused
        assert restarted.model is not None
    store.remove(["models"])
    assert served(config).model is not None
    away = config.model_copy(update={"s3_port": 1})
    assert served(away).model is not None


def test_a_signature_is_of_one_design_role_and_installation(config, store, onnx, tmp_path):
    foreign = config.model_copy(update={"home": tmp_path})
    for file, reason in (
        (sign(config, onnx, D, CHALLENGER, 7), "signed as challenger of 'fraud'"),
        (sign(config, onnx, "cv", CHAMPION, 7), "signed as champion of 'cv'"),
        (sign(foreign, onnx, D, CHAMPION, 7), "not by this installation's promotion"),
        (onnx, "not signed"),
    ):
        store.put(served_path(D), file)
        found = served(config)
        assert reason in found.refused
        assert found.model is None
    file, entry = split(sign(config, onnx, D, CHAMPION, 1))
    for change in ({"version": 2}, {"sha256": "0" * 64}, {"at": 9e9}, {"signature": "00" * 64}):
        forged = file + _entry(json.dumps({**json.loads(entry), **change}).encode())
        with pytest.raises(ModelRefused, match="signature"):
            verified(config, forged, D, CHAMPION)


def test_a_former_champion_is_not_put_back_past_promotion(config, store, onnx):
    put_served(config, onnx, D, CHAMPION, 1)
    former, running = store.get(served_path(D)), served(config)
    put_served(config, onnx, D, CHAMPION, 2)
    running.load()
    assert not running.refused
    store.put(served_path(D), former)
    running.load()
    assert "signed before" in running.refused
    assert "signed before" in served(config).refused


def test_a_changed_last_good_copy_is_not_served(config, store, onnx):
    put_served(config, onnx, D, CHAMPION, 1)
    served(config)
    copy = config.home / "models" / f"{D}-{CHAMPION}.onnx"
    copy.write_bytes(copy.read_bytes().replace(b"xgboost", b"approve"))
    store.remove(["models"])
    assert served(config).model is None
    with pytest.raises(ModelRefused, match="not the file that was signed"):
        LastGood(config, D, CHAMPION).read()


def test_models_of_an_old_home_are_signed_once(config, store, onnx):
    store.put(served_path(D), onnx)
    assert sign_unsigned(config, D)
    assert get_served(config, D) == onnx
    assert not sign_unsigned(config, D)


def test_keys_differ_and_signed_files_stay_onnx(config, onnx):
    assert new_pair() != new_pair()
    signed = sign(config, onnx, D, CHAMPION, 1)
    assert sign(config, signed, D, CHAMPION, 1)[: len(onnx)] == onnx
    names = [entry.key for entry in onnx_format.load_from_string(signed).metadata_props]
    assert names.count("whiteboard.signature") == 1


def greedy_model(size: int) -> bytes:
    """A file of a few hundred bytes that is like ours, and takes 4 bytes times `size` to run."""
    wanted = card()
    rows = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", len(wanted.features)])
    out = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n"])
    held = numpy_helper.from_array(np.array([size], "i8"), "size")
    zero = numpy_helper.from_array(np.zeros(1, "f4"), "zero")
    first = numpy_helper.from_array(np.array([1], "i8"), "axis")
    nodes = [
        helper.make_node("Expand", ["zero", "size"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["held"], keepdims=0),
        helper.make_node("ReduceMax", [INPUT, "axis"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "held"], ["nothing"]),
        helper.make_node("IsNaN", ["nothing"], ["missing"]),
        helper.make_node("Where", ["missing", "held", "nothing"], [OUTPUT]),
    ]
    graph = helper.make_graph(nodes, "g", [rows], [out], [held, zero, first])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return write_card(made.SerializeToString(), wanted)


def test_a_small_file_that_takes_gigabytes_is_refused_and_the_last_good_serves(
    config, store, onnx, tmp_path
):
    put_served(config, onnx, D, CHAMPION, 1)
    running = served(config)
    small, large = greedy_model(1_000), greedy_model(900_000_000)
    assert len(large) < 8_000
    for file, is_refused in ((small, False), (large, True)):
        put_served(config, file, D, CHAMPION, 2)
        before = peak_bytes()
        running.load()
        assert bool(running.refused) is is_refused
        assert peak_bytes() - before < 2**30
    assert served(config).model is not None


@pytest.mark.slow
def test_a_probe_neither_writes_nor_runs_on_nor_knows_a_secret(onnx, tmp_path, monkeypatch):
    monkeypatch.setenv("WHITEBOARD_PASSWORD", "secret")
    for reader, reason in (
        (write, "File too large"),
        (spin, "ended with -"),
        (reveal, "the password is None"),
    ):
        with pytest.raises(ModelRefused, match=reason):
            refuse_greedy(str(tmp_path / "file").encode(), reader, tmp_path / "passed")
    assert not (tmp_path / "passed").exists()
    refuse_greedy(onnx, read_model, tmp_path / "passed")
    assert len(list((tmp_path / "passed").iterdir())) == 1


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write(path: bytes) -> None:
    """What a model's reader must not be brought to do."""
    try:
        with open(path, "wb") as file:
            file.write(b"x" * 10)
    except OSError as error:
        raise ModelRefused(str(error)) from error


def spin(_: bytes) -> None:
    # The rest of the time that a probe has, but for a second.
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1, hard))
    while time.process_time() < soft + 1:
        pass


def reveal(_: bytes) -> None:
    raise ModelRefused(f"the password is {os.environ.get('WHITEBOARD_PASSWORD')}")
