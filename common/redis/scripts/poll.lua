-- The status of jobs for the readers of one API process, once a second. Also renews those jobs' readers. ARGV: job ids
-- Returns for each job {state ('' if unknown), entries in its log, position in the queue (-1 when it does not wait)}
local statuses, now = {}, now_ms()
for at, id in ipairs(ARGV) do
  local state, queue, member = unpack(redis.call('HMGET', JOB .. id, 'state', 'queue', 'member'))
  local position = false
  if state then
    redis.call('ZADD', READERS .. queue, 'XX', now, id)
    if state == 'queued' then position = redis.call('ZRANK', WAITING .. queue, member) end
  end
  statuses[at] = {state or '', redis.call('XLEN', LOG .. id), position or -1}
end
return statuses
