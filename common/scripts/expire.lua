-- Ends what is past its deadline or has had no reader for too long. Any process may run it, as often as it likes.
-- ARGV: queue grace_ms iso
local queue, now = ARGV[1], now_ms()
for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'omni:deadlines:' .. queue, 0, now, 'LIMIT', 0, 100)) do
  redis.call('ZREM', 'omni:deadlines:' .. queue, id)
  cancel(id, 'timeout', DEADLINE_PASSED, ARGV[3])
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'omni:readers:' .. queue, 0, now - tonumber(ARGV[2]), 'LIMIT', 0, 100)) do
  redis.call('ZREM', 'omni:readers:' .. queue, id)
  cancel(id, 'client_gone', 'Nobody was reading this job; send "background": true to let it run alone.', ARGV[3])
end
