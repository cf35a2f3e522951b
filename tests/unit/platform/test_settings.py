"""Settings: one reader of the environment, and an example file that lists them all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.local.engines import environment
from services.designs import DESIGNS
from services.platform.settings import Settings, settings

ROOT = Path(__file__).resolve().parents[3]
PASSWORDS = ["20261127", "50%off", "a/b+c=", "two words", "q\"uo'te"]


def test_the_example_file_names_every_setting_with_its_default():
    example = dict(
        line.removeprefix("# ").split("=", 1)
        for line in (ROOT / ".env.example").read_text().splitlines()
        if "WHITEBOARD_" in line and "=" in line
    )
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    for name, default in defaults.items():
        if isinstance(default, SecretStr):
            defaults[name] = default.get_secret_value()
    for design in DESIGNS:
        defaults[design.http.port_setting] = design.http.default_port
        defaults[f"{design.http.name}_url"] = ""
        if design.http.shares_port:
            defaults[design.http.processes_setting] = "1"
    assert example == {f"WHITEBOARD_{name.upper()}": str(d) for name, d in defaults.items()}


def test_a_url_takes_precedence_over_the_local_engine():
    assert Settings().redis.startswith("redis://operator:")
    assert Settings(redis_url="redis://elsewhere:1/0").redis == "redis://elsewhere:1/0"


def test_an_engine_of_another_machine_is_not_run_here():
    made = Settings(redis_host="redis", redis_port=6379, password="a/b", nats_url="nats://n:4222")
    assert made.redis == "redis://operator:a%2Fb@redis:6379/0"
    assert made.local_engines == ("seaweedfs",)


def test_several_hosts_are_a_cluster():
    made = Settings(redis_host="a:7000,b", redis_port=1, nats_host="a:1,b:2", password="a/b")
    assert made.redis == "redis+cluster://operator:a%2Fb@a:7000,b:1"
    assert made.nats == "nats://operator:a%2Fb@a:1,b:2"


def test_a_password_is_quoted_in_urls_and_hidden_in_print():
    made = Settings(password="p@ss/word")
    assert "p%40ss%2Fword@" in made.nats
    assert "p@ss" not in repr(made)


@pytest.mark.parametrize("password", [" outside", "line\nbreak"])
def test_a_password_that_no_header_carries_is_refused_by_name(password, monkeypatch):
    monkeypatch.setenv("WHITEBOARD_PASSWORD", password)
    settings.cache_clear()
    with pytest.raises(SystemExit, match="WHITEBOARD_PASSWORD: must not have spaces"):
        settings()
    settings.cache_clear()


@pytest.mark.parametrize("night", ["3", "24:00", "03:60", "03:00:00", "at three"])
def test_a_wrong_time_of_day_is_refused_by_name(night, monkeypatch):
    monkeypatch.setenv("WHITEBOARD_NIGHT_UTC", night)
    settings.cache_clear()
    with pytest.raises(SystemExit, match="WHITEBOARD_NIGHT_UTC: must be a time of day as HH:MM"):
        settings()
    settings.cache_clear()


@pytest.mark.parametrize("night", ["", "3:05", "23:59"])
def test_a_time_of_day_is_accepted(night):
    assert Settings(night_utc=night).night_utc == night


@pytest.mark.parametrize("name", ["WHITEBOARD_SIGNING_KEY", "WHITEBOARD_VERIFY_KEY"])
def test_a_key_that_is_none_is_refused_by_name(name, monkeypatch):
    monkeypatch.setenv(name, "s29252d0bf11")
    settings.cache_clear()
    with pytest.raises(SystemExit, match=f"{name}: must be 64 hexadecimal digits"):
        settings()
    settings.cache_clear()


def test_a_designs_settings_come_from_arguments_the_environment_and_the_file_in_that_order(
    tmp_path, monkeypatch
):
    port = DESIGNS[0].http.port
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WHITEBOARD_SCORER_PORT", raising=False)
    assert port(Settings()) == 18080
    Path(".env").write_text("WHITEBOARD_SCORER_PORT=1\n")
    assert port(Settings()) == 1
    monkeypatch.setenv("WHITEBOARD_SCORER_PORT", "2")
    assert port(Settings()) == 2
    assert port(Settings(scorer_port=3)) == 3


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_in_the_env_file_needs_no_quotes(password, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WHITEBOARD_PASSWORD", raising=False)
    Path(".env").write_text(f"WHITEBOARD_PASSWORD={password}\n")
    assert Settings().password.get_secret_value() == password


def test_the_home_is_absolute_and_by_default_where_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WHITEBOARD_HOME", raising=False)
    assert Settings().home == ROOT / ".whiteboard"
    Path(".whiteboard").mkdir()
    assert Settings().home == tmp_path / ".whiteboard"
    assert Settings(home=Path("elsewhere")).home == tmp_path / "elsewhere"


@pytest.mark.parametrize("spelling", ["no_proxy", "NO_PROXY"])
def test_loopback_is_never_proxied_and_the_users_names_stay(spelling):
    code = "import os; from services.platform.settings import settings; settings()\n"
    code += "print(os.environ['no_proxy'], os.environ['NO_PROXY'])"
    env = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"}
    env |= {spelling: "intranet.example", "WHITEBOARD_HOST": "10.1.2.3"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    both = done.stdout.split()
    assert both[0] == both[1]
    assert set(both[0].split(",")) == {"intranet.example", "localhost", "127.0.0.1", "::1",
                                       "10.1.2.3"}  # fmt: skip
    assert "no_proxy" in environment()


def test_nothing_else_reads_the_environment():
    readers = [
        path.relative_to(ROOT)
        for folder in ("services", "features", "infra")
        for path in (ROOT / folder).rglob("*.py")
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    ]
    # settings.py reads it; engines.py passes it on to children; Java and Spark have their own.
    spark = "services/fraud/features/spark"
    assert sorted(map(str, readers)) == [
        "infra/local/engines.py",
        f"{spark}/request.py",
        f"{spark}/session.py",
        "services/platform/settings.py",
    ]


def test_libraries_read_their_defaults_when_they_are_loaded():
    code = "import services.cli.main, os, pyarrow\n"
    code += "print(pyarrow.default_memory_pool().backend_name, os.environ['OMP_WAIT_POLICY'])"
    defaults = {"ARROW_DEFAULT_MEMORY_POOL", "OMP_WAIT_POLICY"}
    env = {k: v for k, v in os.environ.items() if k not in defaults}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["jemalloc", "PASSIVE"]
