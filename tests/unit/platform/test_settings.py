"""Settings: one reader of the environment, and an example file that lists them all."""

from pathlib import Path

from services.platform.settings import Settings

ROOT = Path(__file__).resolve().parents[3]


def test_the_example_file_names_every_setting_with_its_default():
    example = dict(
        line.removeprefix("# ").split("=", 1)
        for line in (ROOT / ".env.example").read_text().splitlines()
        if "WHITEBOARD_" in line and "=" in line
    )
    fields = Settings.model_fields
    assert set(example) == {f"WHITEBOARD_{name.upper()}" for name in fields}
    for name, field in fields.items():
        default = field.default
        plain = default.get_secret_value() if name == "password" else default
        assert example[f"WHITEBOARD_{name.upper()}"] == str(plain)


def test_a_url_takes_precedence_over_the_local_engine():
    assert Settings().redis.startswith("redis://:")
    assert Settings(redis_url="redis://elsewhere:1/0").redis == "redis://elsewhere:1/0"


def test_a_password_is_quoted_in_urls_and_hidden_in_print():
    made = Settings(password="p@ss/word")
    assert "p%40ss%2Fword@" in made.nats
    assert "p@ss" not in repr(made)


def test_nothing_else_reads_the_environment():
    readers = [
        path.relative_to(ROOT)
        for folder in ("services", "features", "infra")
        for path in (ROOT / folder).rglob("*.py")
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    ]
    # settings.py reads it; engines.py passes it on to children.
    assert sorted(map(str, readers)) == ["infra/local/engines.py", "services/platform/settings.py"]
