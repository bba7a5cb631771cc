-- Ends what is past its deadline or has had no reader for too long. Any process may run it, as often as it likes.
-- ARGV: queue grace_ms iso
local queue, now = ARGV[1], now_ms()
for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'omni:deadlines:' .. queue, 0, now, 'LIMIT', 0, 100)) do
  redis.call('ZREM', 'omni:deadlines:' .. queue, id)
  cancel(id, 'timeout', DEADLINE_PASSED, ARGV[3])
end
-- Readers say every second that they are there. When nobody has looked for a while (Redis was away, everything was down, the
-- clock jumped), they could not: they are given the time to say so again.
local awake = redis.call('HMGET', 'omni:awake:' .. queue, 'since', 'last')
local since = tonumber(awake[1] or now)
if math.abs(now - tonumber(awake[2] or 0)) > 5000 then since = now end
redis.call('HSET', 'omni:awake:' .. queue, 'since', since, 'last', now)
if now - since < tonumber(ARGV[2]) then return end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'omni:readers:' .. queue, 0, now - tonumber(ARGV[2]), 'LIMIT', 0, 100)) do
  redis.call('ZREM', 'omni:readers:' .. queue, id)
  cancel(id, 'client_gone', 'Nobody was reading this job; send "background": true to let it run alone.', ARGV[3])
end
