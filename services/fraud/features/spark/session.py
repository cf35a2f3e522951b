"""A Spark session for one command: its options, its folder, and its errors as sentences."""

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.fraud.features.spark.request import SparkRequest, own_java
from services.platform.progress import ProgressCallback

if TYPE_CHECKING:
    from pyspark import StatusTracker
    from pyspark.sql import DataFrame, SparkSession

_EXECUTOR_TIMEOUT_S = 60.0
# Events that Spark hands to a Python worker at once: 5 MB.
_ROWS_PER_BATCH = 50_000


@contextmanager
def session(request: SparkRequest, home: Path) -> "Iterator[SparkSession]":
    """Open a session; end it, and remove what Spark wrote to disk, afterwards.

    Args:
        home: Where Spark's folder is made, with its log.

    Raises:
        ValueError: Spark failed; the message says why, as far as Spark tells. Or another backfill
            uses the folder.
    """
    folder = home / "spark"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "spark.log"
    with ExitStack() as stack:
        stack.enter_context(_alone(folder))
        work = stack.enter_context(_work_folder(folder / "work"))
        stack.enter_context(_jvm_ended())
        # Within the JVM's life: the text of Spark's errors comes from there.
        stack.enter_context(_failures_as_sentences(log))
        opened = _open(request, work, log)
        if not request.is_local:
            _wait_for_executors(opened)
        yield opened


@contextmanager
def _work_folder(work: Path) -> Iterator[Path]:
    """A new folder; what a run that was killed left in it is removed."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _open(request: SparkRequest, work: Path, log: Path) -> "SparkSession":
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName("whiteboard backfill").master(request.master)
    for name, value in {**_options(request, work), **request.options}.items():
        builder = builder.config(name, value)
    # Containers have a Python of their own.
    if not request.master.startswith("k8s://"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if request.is_local:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    if own_java().exists():
        os.environ.setdefault("JAVA_HOME", str(own_java().parents[1]))
    with _standard_error_to(log):
        return builder.getOrCreate()


def _options(request: SparkRequest, work: Path) -> dict[str, str]:
    options = {
        "spark.driver.memory": f"{request.memory_mb}m",
        "spark.executor.memory": f"{request.memory_mb}m",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.local.dir": str(work),
        "spark.sql.warehouse.dir": str(work / "warehouse"),
        "spark.sql.session.timeZone": "UTC",
        # A partition is a shard: none is joined to another.
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(_ROWS_PER_BATCH),
        # Shuffles of earlier jobs go when the driver collects garbage.
        "spark.cleaner.periodicGC.interval": "30s",
    }
    if request.is_local:
        options |= {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
        }
    return options


def collected(frame: "DataFrame", step: ProgressCallback, tasks: int) -> list[Any]:
    """The rows of a frame.

    Args:
        step: Called once a second with the tasks of this session that are done.
        tasks: All tasks of this session.
    """
    tracker = frame.sparkSession.sparkContext.statusTracker()
    with ThreadPoolExecutor(1) as pool:
        rows = pool.submit(frame.collect)
        while not wait([rows], timeout=1.0).done:
            step(_completed(tracker), tasks)
        found = rows.result()
    step(_completed(tracker), tasks)
    return found


def _completed(tracker: "StatusTracker") -> int:
    jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup()]
    stages = [tracker.getStageInfo(one) for job in jobs if job for one in job.stageIds]
    return sum(stage.numCompletedTasks for stage in stages if stage)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One session a folder: a second one would remove the files of the first."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another backfill on Spark is running ({folder})") from None
        yield


@contextmanager
def _standard_error_to(log: Path) -> Iterator[None]:
    """The JVM that starts meanwhile writes its messages to a file, not to the terminal."""
    sys.stderr.flush()
    kept = os.dup(2)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _wait_for_executors(opened: "SparkSession") -> None:
    """ValueError if a master answers and gives no executor."""
    status = opened.sparkContext._jsc.sc()
    end = time.monotonic() + _EXECUTOR_TIMEOUT_S
    # The driver is one of them.
    while status.getExecutorMemoryStatus().size() < 2:
        if time.monotonic() > end:
            raise ValueError(
                f"the master gave no executor within {_EXECUTOR_TIMEOUT_S:.0f} s: has it workers "
                "with enough free memory and cores?"
            )
        time.sleep(0.5)


@contextmanager
def _jvm_ended() -> Iterator[None]:
    """End the JVM afterwards: another session of this process may ask for another heap."""
    try:
        yield
    finally:
        from pyspark import SparkContext

        gateway, context = SparkContext._gateway, SparkContext._active_spark_context
        if context is not None:
            with suppress(Exception):
                context.stop()
        SparkContext._gateway = SparkContext._jvm = None
        if gateway is not None:
            with suppress(Exception):
                gateway.shutdown()
            # It ends when its standard input does.
            gateway.proc.stdin.close()
            gateway.proc.wait(30)


@contextmanager
def _failures_as_sentences(log: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) or not _is_of_spark(error, log):
            raise
        raise ValueError(_sentence(str(error), log)) from error


def _is_of_spark(error: Exception, log: Path) -> bool:
    is_lost_jvm = isinstance(error, ConnectionError) and log.exists()
    return is_lost_jvm or type(error).__module__.startswith(("pyspark", "py4j"))


def _sentence(text: str, log: Path) -> str:
    """What Spark's error means, in a sentence.

    >>> _sentence("java.lang.OutOfMemoryError: Java heap space", Path("spark.log"))
    "Spark's heap is too small for these events: a greater --memory-mb (see spark.log)"
    """
    logged = log.read_text(errors="replace")[-20_000:] if log.exists() else ""
    where = f"(see {log})"
    if "OutOfMemoryError" in text + logged:
        return f"Spark's heap is too small for these events: a greater --memory-mb {where}"
    if "All masters are unresponsive" in text + logged:
        return f"what listens at the master's address does not answer as a Spark master {where}"
    if "No space left on device" in text + logged:
        return f"the disk is full: the events are sorted in {log.parent} {where}"
    if "Python worker exited unexpectedly" in text:
        return f"a Python worker was killed, for memory if by the kernel: more --shards {where}"
    if "FileNotFoundError" in text:
        return f"a file of the lake was replaced by a compaction meanwhile: run it again {where}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [line for line in lines if line.split(":")[0].endswith(("Error", "Exception"))]
    return f"Spark failed: {(raised or lines or ['it ended'])[-1][:300]} {where}"
