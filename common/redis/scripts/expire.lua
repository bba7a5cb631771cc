-- Moves jobs whose not_before has come into the queue; ends jobs that are past their deadline or have had no reader for too
-- long. Any process may run it, as often as it likes. ARGV: queue grace_ms iso
-- Returns 1 if more jobs are due than one run moves, else 0.
local queue, grace_ms, iso = unpack(ARGV, 1, 3)
local now, pause_ms, page = now_ms(), 5000, 100
grace_ms = tonumber(grace_ms)

-- One step takes a job from the one set and puts it into the other, so none is missed or doubled. Redis's clock decides: a
-- jump of it makes jobs early or late, no more.
local due = redis.call('ZRANGEBYSCORE', LATER .. queue, 0, now, 'LIMIT', 0, page)
local view = due[1] and view_of(queue, now)
for _, id in ipairs(due) do
  redis.call('ZREM', LATER .. queue, id)
  redis.call('ZREM', RQ_SCHEDULED .. queue, id)
  local status = redis.call('HGET', RQ_JOB .. id, 'status')
  if status == 'scheduled' or status == 'queued' then
    redis.call('HSET', RQ_JOB .. id, 'status', 'queued')
    join_queue(id, queue, redis.call('INCR', TICKET), view)
  elseif redis.call('HGET', JOB .. id, 'state') == 'queued' then  -- cancelled or deleted in the dashboard
    end_with_failure(id, 'cancelled', 'cancelled', BY_OPERATOR, iso)
  end
end
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
if now - since < grace_ms then return #due == page and 1 or 0 end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', READERS .. queue, 0, now - grace_ms, 'LIMIT', 0, page)) do
  redis.call('ZREM', READERS .. queue, id)
  cancel(id, 'client_gone', 'Nobody was reading this job; send "background": true to let it run alone.', iso)
end
return #due == page and 1 or 0
