-- For wrk: wrk ... -s bench/rest.lua URL -- TOKEN [BODY]. With a body it is a POST, in which %s becomes a text that no other request has.
-- Prints requests, microseconds, answers that were no success, and the 99th percentile of latencies in microseconds.

local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

function init(args)
  wrk.headers["Authorization"] = "Bearer " .. args[1]
  body = args[2]
  if body then
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/json"
    made = 0
    seed = os.time()
  end
end

function request()
  if not body then
    return wrk.format()
  end
  made = made + 1
  return wrk.format(nil, nil, nil, string.format(body, string.format("%d-%d-%d", seed, number, made)))
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  print(string.format("figures %d %d %d %d", summary.requests, summary.duration, failed, latency:percentile(99)))
end
