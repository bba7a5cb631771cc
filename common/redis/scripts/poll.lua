-- The status of jobs for the readers of one API process, once a second. Also renews those jobs' readers. ARGV: job ids
-- Returns for each job {state ('' if unknown), entries in its log, position in the queue (-1 when it does not wait), ms until
-- its first token (-1 when it does not wait), unix ms before which it is not admitted (0 when it need not wait for that), tier, queue}
local statuses, views, now = {}, {}, now_ms()
for at, id in ipairs(ARGV) do
  local state, queue = unpack(redis.call('HMGET', JOB .. id, 'state', 'queue'))
  local position, eta, not_before = -1, -1, 0
  if state then
    redis.call('ZADD', READERS .. queue, 'XX', now, id)
    if state == 'queued' then position, eta, not_before = outlook(id, views, now) end
  end
  statuses[at] = {state or '', redis.call('XLEN', LOG .. id), position, eta, not_before, tier_of(id), queue or ''}
end
return statuses
