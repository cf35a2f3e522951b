-- Posts the bodies of a file, one per line; each thread starts at another line.
local bodies = {}
for line in io.lines(os.getenv("BENCH_BODIES")) do bodies[#bodies + 1] = line end

local threads = 0
function setup(thread)
  thread:set("offset", threads * 7919)
  threads = threads + 1
end

local headers = { ["Content-Type"] = "application/json", ["baggage"] = "synthetic_request=true",
  ["Authorization"] = "Bearer " .. os.getenv("BENCH_TOKEN") }
local at = 0
function request()
  at = at + 1
  local body = bodies[(offset + at) % #bodies + 1]
  return wrk.format("POST", nil, headers, body)
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "errors": %d, "p50_ms": %.4f, "p95_ms": %.4f, "p99_ms": %.4f}\n',
    summary.requests, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
