-- Every request with the next of many tokens, round and round, so that no bounded cache ever sees a token again before
-- it has dropped it; figures as JSON at the end.
local requests = {}
local count, at = 0, 0

function init(arguments)
    for token in io.lines("@tokens@") do
        count = count + 1
        requests[count] = wrk.format("GET", "/", { ["Host"] = "bench.example", ["Authorization"] = "Bearer " .. token })
    end
    -- Warm-up and measurement begin at different places of the round.
    math.randomseed(os.time())
    at = math.random(count)
end

function request()
    at = at % count + 1
    return requests[at]
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '\nFIGURES {"requests":%d,"micros":%d,"p50":%d,"p99":%d,"bad_status":%d,"broken":%d}\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
        errors.connect + errors.read + errors.write + errors.timeout))
end
