-- Ends jobs that are past their deadline or have had no reader for too long. Any process may run it, as often as it likes.
-- ARGV: queue grace_ms iso
local queue, grace_ms, iso = unpack(ARGV, 1, 3)
local now, pause_ms, page = now_ms(), 5000, 100
grace_ms = tonumber(grace_ms)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', DEADLINES .. queue, 0, now, 'LIMIT', 0, page)) do
  redis.call('ZREM', DEADLINES .. queue, id)
  cancel(id, 'timeout', DEADLINE_PASSED, iso)
end
-- Readers are renewed every second. After a pause (Redis was away, everything was down, the clock jumped) they could not
-- be, so their grace period begins again.
local since, last = unpack(redis.call('HMGET', AWAKE .. queue, 'since', 'last'))
since = tonumber(since or now)
if math.abs(now - tonumber(last or 0)) > pause_ms then since = now end
redis.call('HSET', AWAKE .. queue, 'since', since, 'last', now)
if now - since < grace_ms then return end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', READERS .. queue, 0, now - grace_ms, 'LIMIT', 0, page)) do
  redis.call('ZREM', READERS .. queue, id)
  cancel(id, 'client_gone', 'Nobody was reading this job; send "background": true to let it run alone.', iso)
end
