"""The diagram of quality inspection: what is drawn where, its live figures, and what is asked."""

from services.platform.diagram import (
    LAKE_WRITER_TEXTS,
    MONITOR_TEXTS,
    SCHEDULER_TEXTS,
    SHADOW_TEXTS,
    SLOW,
    Arrow,
    Box,
    Diagram,
    Measure,
    events_rate,
    lag,
    stream_rate,
)

_POSTED = Measure("posted", "inspector", "requests_total", labels={"route": "/inspect"})
_P95 = Measure(
    "p95", "inspector", "request_duration_seconds", "p95", "ms", {"route": "/inspect"}, scale=1e3
)
_INFER = Measure("infer p95", "inspector", "stage_duration_seconds", "p95", "ms",
                 {"stage": "infer"}, scale=1e3)  # fmt: skip
_STOPPED = Measure("stopped", "inspector", "decisions_total", labels={"decision": "!pass"})
_OUTBOX = Measure("in the outbox", "inspector", "outbox_events", "gauge", "")
_EVENTS, _INSPECTIONS = stream_rate("CV", "events"), stream_rate("CV_DECISIONS", "inspections")
_WORKED = events_rate("inspection-worker", "images")

_BOXES = (
    Box(
        "camera", "Cameras", "problem", 20, 40,
        figures=(_WORKED, _POSTED),
        command="whiteboard simulate cv --rate 4 --seconds 60",
        question="What does an escaped defect cost against a false alarm? Who decides the "
        "threshold?",
        answer="An escape costs 60 EUR, inspecting a good part again 1.50 EUR. The threshold is "
        "where the sum of both is least on held-out images, so the costs decide it.",
        aws="Cameras with AWS IoT Greengrass that put images into S3.",
        at_scale="Twelve lines at 30 images a second are 360 images a second: one bucket, sharded "
        "keys.",
    ),
    Box(
        "inspector", "Inspector", "serving", 300, 40, "inspector",
        (_POSTED, _P95, _STOPPED, _OUTBOX),
        command="whiteboard load cv --rate 20 --duration 30",
        question="Broken, huge, turned, 16-bit or hostile files: what happens to the line?",
        answer="Each is read completely, checked and turned upright, or refused with a reason. A "
        "refused file never reaches the model and stops no worker.",
        faults={
            "kill": "Posted images on their way fail; images in the store wait for its webhook and "
            "are notified again, and reconciliation finds what was given up.",
            "hang": "Posted images wait until the camera gives up; the store retries.",
            "away": "The store retries its notifications; `whiteboard reconcile` finds the rest.",
        },
        aws="SageMaker real-time endpoint; S3 events through SNS and SQS.",
        at_scale="Replicas without state: 14 ms an image, 5 to 6 of them the network, are 71 "
        "images a second a core.",
    ),
    Box(
        "model", "Champion network", "candidates", 580, 40, "inspector",
        (
            Measure("version", "inspector", "model_version", "gauge", "", {"role": "champion"}),
            _INFER,
        ),
        command="whiteboard candidates cv",
        question="Why a small convolutional network, when a transformer? What does each cost?",
        answer="EfficientNet-Lite0 has 3 million weights and survives eight bits. ViT and TinyViT "
        "relate distant parts of an image and cost several times as much an image.",
        aws="A model artifact in S3 and the SageMaker Model Registry.",
        at_scale="The same ONNX file in each replica.",
    ),
    Box(
        "edge", "Edge device", "edge", 1140, 40,
        command="whiteboard edge build",
        question="The model must run beside the camera with no network. What is lost by eight "
        "bits?",
        answer="The INT8 build is refused if its decisions cost too much more than the champion's. "
        "Inspections are kept in SQLite and forwarded when the network is back; each counts once.",
        aws="SageMaker Neo and IoT Greengrass.",
        at_scale="A device a station; the stack then only collects and retrains.",
    ),
    Box(
        "store", "Image store, S3", "ingestion", 20, 230, "seaweedfs",
        (
            Measure("answers in", "seaweedfs", "s3_answer_seconds", "gauge", "ms", scale=1e3),
            Measure("images", "inspection-worker", "events_total"),
        ),
        command="whiteboard reconcile cv",
        question="The event never comes, or comes three times. Who notices?",
        answer="An inspection is identified by the image's key and content, so three events "
        "give one "
        "result. Reconciliation lists the store and inspects what has none.",
        faults={
            "kill": "A camera retries its PUT once. Results that could not be stored are retried.",
            "hang": "Workers wait for the store; posted images are still inspected.",
            "away": "No image lands and no result is stored; workers retry until it is back.",
            "slow": SLOW
            + "Images land later, and workers retry what a reset broke; posted images do not wait.",
        },
        aws="S3 with event notifications.",
        at_scale="S3 itself; the key begins with the line.",
    ),
    Box(
        "nats", "NATS JetStream", "ingestion", 300, 230, "nats",
        (
            _EVENTS,
            _INSPECTIONS,
            Measure("stored", "nats", "stream_messages", "gauge", "", {"stream": "CV"}),
        ),
        command="whiteboard fault nats --seconds 10",
        question="An image lands in a bucket: what happens until the part is sorted, exactly once?",
        answer="The store's webhook becomes an event on a durable stream, and a worker inspects "
        "and "
        "acknowledges. The stream drops a second event of the same identity.",
        faults={
            "kill": "Notifications are refused and retried; nothing acknowledged is lost.",
            "hang": "As when it is away, until clients notice by ping.",
            "away": "Posted images are still answered; their inspections wait in the outbox.",
            "slow": SLOW
            + "Acknowledgements take longer: decisions wait in the outbox, answers do not.",
        },
        aws="SNS and SQS.",
        at_scale="A cluster of three; the subject carries the line.",
    ),
    Box(
        "scheduler", "Scheduler and gate", "retraining", 860, 230, "scheduler",
        (Measure("commands", "scheduler", "events_total", "gauge", ""),),
        command="whiteboard history cv",
        question="Operators confirm only what was rejected. What do you never learn?",
        answer="Escapes: a part that passed gets no label, so recall looks better than it is. A "
        "person looks at a random tenth of the passed parts, and each of those labels counts ten "
        "times.",
        at_scale="One is enough: it starts jobs, and jobs run elsewhere.",
        **SCHEDULER_TEXTS,
    ),
    Box(
        "inspection-worker", "Inspection worker", "serving", 300, 420, "inspection-worker",
        (
            _WORKED,
            Measure("result after p95", "inspection-worker", "inspection_delay_seconds",
                    "p95", "ms", scale=1e3),
            lag("inspection-worker"),
        ),
        command="whiteboard fault inspection-worker --kind kill",
        question="A million archived images must be inspected again tonight. What if it stops "
        "halfway?",
        answer="`batch` runs over a manifest and records what is done, so it resumes where it "
        "stopped. "
        "The same function decides in the batch, on the stream, over HTTP and on the edge.",
        faults={
            "kill": "Images wait; an image that was half done is done again with the same "
            "identity.",
            "hang": "Images wait; posted images are still inspected.",
            "away": "Images wait; the lag grows and falls to zero afterwards.",
        },
        aws="A SageMaker batch transform, or ECS tasks on the queue.",
        at_scale="One worker per core; they share one durable consumer.",
    ),
    Box(
        "cv-lake-writer", "Lake writer", "ingestion", 580, 420, "cv-lake-writer",
        (events_rate("cv-lake-writer", "rows"), lag("cv-lake-writer")),
        command="whiteboard fault cv-lake-writer --kind kill",
        question="Several images of one part: how do you split without fooling yourself?",
        answer="By lot, never by image: images of one part are alike. The gate resamples whole "
        "lots "
        "for the same reason.",
        at_scale="One is enough for 360 rows a second.",
        **LAKE_WRITER_TEXTS,
    ),
    Box(
        "cv-shadow", "Shadow challenger", "monitoring", 860, 420, "cv-shadow",
        (events_rate("cv-shadow", "images"), lag("cv-shadow")),
        command="whiteboard swap cv tiny_vit",
        question="Defects are one in a hundred. How do you train, and how do you correct for it?",
        answer="Defects are sampled more often in training than they occur. The probabilities "
        "are then "
        "adjusted to the line's own share before the threshold is chosen.",
        at_scale="A sample of images is enough for the gate's bound.",
        **SHADOW_TEXTS,
    ),
    Box(
        "cv-monitor", "Drift monitor", "monitoring", 1140, 420, "cv-monitor",
        (
            Measure("in the window", "cv-monitor", "monitor_window_rows", "gauge", ""),
            Measure("alerts", "cv-monitor", "alerts_total", "gauge", ""),
            lag("cv-monitor"),
        ),
        command="whiteboard simulate cv --drift blur=1@line-b/station-2",
        question="A lens goes out of focus on one station. Which alarm, how fast, which station?",
        answer="Sharpness drifts in the next window of 200 images. The alert names the station "
        "that "
        "moved most from its own past.",
        at_scale="A monitor a line, so that one line's drift is not averaged away.",
        **MONITOR_TEXTS,
    ),
)  # fmt: skip

_BUS = "M480 292 H530 V372 H"

DIAGRAM = Diagram(
    _BOXES,
    (
        Arrow("camera", "inspector", "M200 70 H300", "posted images", _POSTED),
        Arrow("camera", "store", "M110 136 V230", "images", _WORKED),
        Arrow("store", "inspector", "M200 262 H250 V112 H300", "notifications", _WORKED),
        Arrow("inspector", "model", "M480 88 H580", "pixels", _POSTED),
        Arrow("inspector", "nats", "M390 136 V230", "events", _EVENTS, _OUTBOX),
        Arrow("nats", "inspection-worker", "M390 326 V420", "images to inspect", _WORKED,
              lag("inspection-worker")),
        Arrow("inspection-worker", "store", "M300 468 H130 V326", "results and masks", _WORKED),
        Arrow("nats", "cv-lake-writer", f"{_BUS}670 V420", "inspections and labels",
              events_rate("cv-lake-writer"), lag("cv-lake-writer")),
        Arrow("nats", "cv-shadow", f"{_BUS}920 V420", "inspections", events_rate("cv-shadow"),
              lag("cv-shadow")),
        Arrow("nats", "cv-monitor", f"{_BUS}1190 V420", "inspections", events_rate("cv-monitor"),
              lag("cv-monitor")),
        Arrow("cv-lake-writer", "store", "M670 516 V560 H80 V326", "Parquet",
              events_rate("cv-lake-writer")),
        Arrow("cv-shadow", "scheduler", "M990 420 V326", "challenger's results",
              events_rate("cv-shadow")),
        Arrow("cv-monitor", "scheduler", "M1260 420 V278 H1040", "alerts"),
        Arrow("scheduler", "model", "M950 230 V108 H760", "promotions"),
        Arrow("model", "edge", "M760 68 H1140", "INT8 build"),
    ),
)  # fmt: skip
