"""The diagram of fraud detection: what is drawn where, its live figures, and what is asked."""

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

_REQUESTS = Measure("payments", "scorer", "requests_total", labels={"route": "/score"})
_P95 = Measure(
    "p95", "scorer", "request_duration_seconds", "p95", "ms", {"route": "/score"}, scale=1e3
)
_FETCH = Measure("fetch p95", "scorer", "stage_duration_seconds", "p95", "ms",
                 {"stage": "fetch"}, scale=1e3)  # fmt: skip
_INFER = Measure("infer p95", "scorer", "stage_duration_seconds", "p95", "ms",
                 {"stage": "infer"}, scale=1e3)  # fmt: skip
_DEGRADED = Measure("degraded", "scorer", "decisions_total", labels={"degraded": "true"})
_DECLINED = Measure("declined", "scorer", "decisions_total", labels={"decision": "decline"})
_PROCESSES = Measure("processes", "scorer", "service_build_info", "gauge", "")
_OUTBOX = Measure("in the outbox", "scorer", "outbox_events", "gauge", "")
_EVENTS, _DECISIONS = stream_rate("FRAUD", "events"), stream_rate("FRAUD_DECISIONS", "decisions")

_BOXES = (
    Box(
        "gateway", "Payment gateway", "problem", 20, 40,
        figures=(_REQUESTS, _DECLINED),
        command="whiteboard simulate fraud --rate 100 --seconds 60",
        question="What does the model's answer decide, and what does each mistake cost?",
        answer="It approves or declines one payment, or sends it to review: the outcome of least "
        "expected cost. A declined genuine payment costs 5 EUR, an approved fraud its amount and "
        "15 EUR.",
        aws="Your payment service behind an Application Load Balancer.",
        at_scale="Customers' own gateways; each names its feed, and each feed has its own clock.",
    ),
    Box(
        "scorer", "Scorer", "serving", 300, 40, "scorer",
        (_REQUESTS, _P95, _DEGRADED, _OUTBOX, _PROCESSES), _DEGRADED,
        command="whiteboard load fraud --rate 300 --duration 30",
        question="Where do 50 ms go? What would you cut first?",
        answer="One Redis round trip, one computation of features and one ONNX call; the answer's "
        "Server-Timing header has the time of each. Publishing the decision is off the hot path.",
        faults={
            "kill": "Requests on their way fail, Supervisor starts it again within seconds, and "
            "decisions in its outbox's file are published then. With WHITEBOARD_SCORER_PROCESSES "
            "above 1 the other processes answer meanwhile.",
            "hang": "Requests wait until their clients give up; nothing restarts a process that "
            "hangs without a probe of /healthz.",
            "away": "No payment is decided; the gateway lets customers pay without a decision.",
        },
        aws="SageMaker real-time endpoint with the same image, or ECS behind a load balancer.",
        at_scale="Replicas without state: the measured rate of one core divides 50,000/s.",
    ),
    Box(
        "model", "Champion model", "candidates", 580, 40, "scorer",
        (Measure("version", "scorer", "model_version", "gauge", "", {"role": "champion"}), _INFER),
        command="whiteboard candidates fraud",
        question="Why trees? When a set network, when a graph?",
        answer="Trees score a row of tabular features in microseconds and need no scaling. A set "
        "network sees the items of a cart, a graph sees which customers share devices.",
        aws="A model artifact in S3 and the SageMaker Model Registry.",
        at_scale="The same ONNX file in each replica; a swap is a new file.",
    ),
    Box(
        "banks", "Banks (federated)", "privacy", 1140, 40,
        command="whiteboard federate fraud",
        question="Four banks want one model and may not share rows. What leaves the bank?",
        answer="Only a network's weights leave the bank, as masked sums under secure aggregation. "
        "The bank with hardly any fraud gains most; noise for privacy takes most of the gain.",
        aws="Flower on SageMaker, a SuperNode in each bank's own account.",
        at_scale="More banks a round, sampled; the server's work grows with the model, not with "
        "rows.",
    ),
    Box(
        "redis", "Redis online store", "features", 300, 230, "redis",
        (
            Measure("commands", "redis", "redis_commands_total"),
            _FETCH,
            Measure("memory", "redis", "redis_memory_bytes", "gauge", "MB", scale=1e-6),
        ),
        command="whiteboard fault redis --seconds 10",
        question="The feature store is down. What does the customer see, and what does it cost?",
        answer="Every payment is still answered in budget, from the request and the rows read "
        "last, and marked degraded. Recall falls while it lasts, which the cost of the run shows.",
        faults={
            "kill": "Answers are degraded for about a second. Redis restarts from its append-only "
            "file; the feature worker then writes what waited.",
            "hang": "The first requests wait 20 ms for Redis, then answers are degraded at once "
            "until it answers a ping again.",
            "away": "All answers are degraded, none fails. Events wait in the stream and are "
            "aggregated afterwards; no event is lost.",
            "slow": SLOW
            + "The scorer waits 20 ms for it, so answers are in budget and degraded.",
        },
        aws="SageMaker Feature Store (online), DynamoDB, or ElastiCache.",
        at_scale="Redis Cluster: rows are independent keys, so it scales by key.",
    ),
    Box(
        "lake", "Lake on S3", "ingestion", 580, 230, "seaweedfs",
        (Measure("answers in", "seaweedfs", "s3_answer_seconds", "gauge", "ms", scale=1e3),),
        command="whiteboard audit fraud",
        question="How do you prove that training and serving compute the same?",
        answer="Each decision logs its feature vector and the sequence of every row it read. The "
        "audit computes the vector again from the lake's raw events and demands equal bytes.",
        faults={
            "kill": "Lake writers keep their batches unacknowledged and write them again after the "
            "restart; readers keep one row per sequence.",
            "hang": "Lake writers wait. Scoring goes on, it reads nothing from S3.",
            "away": "The lag of lake writers grows until it is back, then falls to zero.",
            "slow": SLOW
            + "Lake writers retry what a reset broke; scoring reads nothing from S3.",
        },
        aws="S3, read by Athena.",
        at_scale="S3 itself; larger files and a table format for compaction.",
    ),
    Box(
        "scheduler", "Scheduler and gate", "retraining", 860, 230, "scheduler",
        (Measure("commands", "scheduler", "events_total", "gauge", ""),),
        command="whiteboard history fraud",
        question="A bad model is shipped. What stops it, and how fast are you back?",
        answer="The gate promotes only with an upper bound of the cost difference below 0, p95 in "
        "budget and calibration no worse. A rollback is one announcement: seconds, no restart.",
        at_scale="One is enough: it starts jobs, and jobs run elsewhere.",
        **SCHEDULER_TEXTS,
    ),
    Box(
        "nats", "NATS JetStream", "ingestion", 20, 420, "nats",
        (
            _EVENTS,
            _DECISIONS,
            Measure("stored", "nats", "stream_messages", "gauge", "", {"stream": "FRAUD"}),
        ),
        command="whiteboard fault nats --seconds 10",
        question="What is the partition key? What if one merchant is a hundred times hotter?",
        answer="The subject carries a shard of every entity, so each entity has one owner "
        "without a "
        "shuffle. A hot merchant loads the owner of its shard alone.",
        faults={
            "kill": "Decisions wait in the scorer's outbox. The store was flushed before each "
            "acknowledgement: nothing acknowledged is lost.",
            "hang": "As when it is away, until clients notice by ping.",
            "away": "Payments are answered in budget; decisions wait in memory and then in a file, "
            "and are published when it is back.",
            "slow": SLOW
            + "Acknowledgements take longer: decisions wait in the outbox, answers do not.",
        },
        aws="Kinesis Data Streams, a shard key per entity.",
        at_scale="A NATS cluster of three, streams split by shard.",
    ),
    Box(
        "feature-worker", "Feature worker", "features", 300, 420, "feature-worker",
        (
            events_rate("feature-worker"),
            Measure("fresh p95", "feature-worker", "freshness_seconds", "p95", "ms", scale=1e3),
            lag("feature-worker"),
        ),
        command="whiteboard fault feature-worker --kind kill",
        question="Two events of one customer arrive out of order, or twice. What does the state "
        "say?",
        answer="A row holds the sequence of the last event applied, so a second delivery changes "
        "nothing. A late event adds its value decayed to the state's own time, exactly.",
        faults={
            "kill": "Events wait; it restarts at its acknowledged position and applies none twice.",
            "hang": "Features become stale, payments are still decided; the lag grows.",
            "away": "Features become stale; the lag grows, and falls to zero afterwards.",
        },
        aws="Managed Flink, or consumers on ECS, a task a shard.",
        at_scale="Workers share the rows by shard: no two writers on one row.",
    ),
    Box(
        "lake-writer", "Lake writer", "ingestion", 580, 420, "lake-writer",
        (events_rate("lake-writer", "rows"), lag("lake-writer")),
        command="whiteboard fault lake-writer --kind kill",
        question="You decline a payment: what do you learn?",
        answer="Nothing: a declined payment has no chargeback, so its label never arrives. Three "
        "of a hundred would-be declines, fewer of large amounts, are approved to learn it: the "
        "control group.",
        at_scale="One a stream shard; batches by size, not by time.",
        **LAKE_WRITER_TEXTS,
    ),
    Box(
        "shadow", "Shadow challenger", "monitoring", 860, 420, "shadow",
        (events_rate("shadow", "decisions"), lag("shadow")),
        command="whiteboard swap fraud deepsets",
        question="How do you compare a challenger whose decisions are never used?",
        answer="It scores the logged vectors of live decisions, off the hot path. Once labels "
        "are in, "
        "a paired bootstrap bounds the difference of cost.",
        at_scale="A sample of decisions is enough for the gate's bound.",
        **SHADOW_TEXTS,
    ),
    Box(
        "monitor", "Drift monitor", "monitoring", 1140, 420, "monitor",
        (
            Measure("in the window", "monitor", "monitor_window_rows", "gauge", ""),
            Measure("alerts", "monitor", "alerts_total", "gauge", ""),
            lag("monitor"),
        ),
        command="whiteboard simulate fraud --drift covariate=0.5",
        question="Inputs drift, the score drifts, the cost drifts: which alarm comes first?",
        answer="Inputs: a window is compared as it closes, while the cost needs labels that "
        "arrive two "
        "weeks later. False alarms are bounded by Benjamini-Hochberg over all columns.",
        at_scale="A sample a window: distances need thousands of rows, not millions.",
        **MONITOR_TEXTS,
    ),
    Box(
        "reasons", "Reasons", "serving", 300, 610, "reasons",
        (
            events_rate("reasons", "decisions"),
            Measure("delay p95", "reasons", "reasons_delay_seconds", "p95", "s"),
            lag("reasons"),
        ),
        command="whiteboard why fraud --test",
        question="Why was this payment declined?",
        answer="A worker explains each decline within a second: up to four feature groups by exact "
        "Shapley values, with the value beside what is usual. The decision does not wait for it.",
        faults={
            "kill": "Reasons come late; it begins again behind its last acknowledged batch.",
            "hang": "Reasons come late; no decision depends on them.",
            "away": "Reasons come late; decisions to explain wait in the stream.",
        },
        aws="A consumer on ECS; reports in DynamoDB.",
        at_scale="Declines are about one in a hundred: a worker explains some hundreds a second.",
    ),
    Box(
        "review-desk", "Review desk", "serving", 580, 610, "review-desk",
        (
            events_rate("review-desk", "decisions"),
            Measure("cases", "review-desk", "review_backlog_cases", "gauge", ""),
            Measure("slot price", "review-desk", "review_slot_price_eur", "gauge", "EUR"),
        ),
        command="whiteboard review fraud",
        question="Which threshold, and who reviews?",
        answer="No threshold: each payment has the outcome of least expected cost. A review slot "
        "has a price that rises with the queue, so the few analysts see the cases worth most.",
        faults={
            "kill": "Cases wait in the work queue; it restarts and loses none.",
            "hang": "Its price is too old after 5 s: nothing more is reviewed until it answers.",
            "away": "As when it hangs; cases are made of the decisions once it is back.",
        },
        aws="Amazon Augmented AI, or a queue on SQS with a case tool.",
        at_scale="One price for all desks; the queue splits by team.",
    ),
    Box(
        "analysts", "Simulated analysts", "serving", 860, 610, "analysts",
        (
            events_rate("analysts", "verdicts"),
            Measure("wait p95", "analysts", "review_wait_seconds", "p95", "s"),
        ),
        command="whiteboard fault analysts --kind hang --seconds 20",
        question="What if no analyst works the queue?",
        answer="A case that no analyst takes within an hour gets the cheaper of approving and "
        "declining. The price of a slot becomes infinite, so decisions go on with two outcomes.",
        faults={
            "kill": "Leases of open cases expire, and the cases come again.",
            "hang": "Nothing is reviewed after 3 s; waiting cases get their default.",
            "away": "Nothing is reviewed after 3 s; waiting cases get their default.",
        },
        aws="People.",
        at_scale="Teams by skill and language, each with a queue and a price.",
    ),
)  # fmt: skip

_BUS = "M110 516 V565 H"

DIAGRAM = Diagram(
    _BOXES,
    (
        Arrow("gateway", "scorer", "M200 76 H300", "payment", _REQUESTS),
        Arrow("redis", "scorer", "M390 230 V136", "states", _REQUESTS),
        Arrow("scorer", "model", "M480 88 H580", "features", _REQUESTS),
        Arrow("gateway", "nats", "M90 136 V420", "events and labels", _EVENTS),
        Arrow("scorer", "nats", "M300 114 H250 V396 H170 V420", "decisions", _DECISIONS, _OUTBOX),
        Arrow("nats", "feature-worker", "M200 468 H300", "events",
              events_rate("feature-worker"), lag("feature-worker")),
        Arrow("feature-worker", "redis", "M390 420 V326", "new states",
              events_rate("feature-worker")),
        Arrow("nats", "lake-writer", f"{_BUS}670 V516", "events and decisions",
              events_rate("lake-writer"), lag("lake-writer")),
        Arrow("nats", "shadow", f"{_BUS}950 V516", "decisions", events_rate("shadow"),
              lag("shadow")),
        Arrow("nats", "monitor", f"{_BUS}1230 V516", "decisions", events_rate("monitor"),
              lag("monitor")),
        Arrow("nats", "review-desk", f"{_BUS}670 V610", "decisions", events_rate("review-desk"),
              lag("review-desk")),
        Arrow("review-desk", "analysts", "M760 658 H860", "cases", events_rate("analysts")),
        Arrow("nats", "reasons", "M110 516 V658 H300", "decisions", events_rate("reasons"),
              lag("reasons")),
        Arrow("lake-writer", "lake", "M670 420 V326", "Parquet", events_rate("lake-writer")),
        Arrow("lake", "scheduler", "M760 278 H860", "labelled decisions"),
        Arrow("shadow", "scheduler", "M950 420 V326", "challenger's scores",
              events_rate("shadow")),
        Arrow("monitor", "scheduler", "M1230 420 V278 H1040", "alerts"),
        Arrow("scheduler", "model", "M950 230 V108 H760", "promotions"),
        Arrow("banks", "model", "M1140 68 H760", "weights"),
    ),
)  # fmt: skip
