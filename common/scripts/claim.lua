-- Takes the head of the line for a worker, or nothing: the head is never skipped.
-- ARGV: fence queue worker_name iso num_suspects (claimed and not yet cleared) number (of the claim, so that one whose
--       answer was lost can be repeated)
-- Returns {'fenced'} | {'empty'} | {'hold'} | {'again'} | {'job', id, request, suspect, revision, rows in its log}
local fence, queue, iso = ARGV[1], ARGV[2], ARGV[4]
if not is_alive(fence) then return {'fenced'} end
local num_suspects = tonumber(ARGV[5])

local number, last = string.match(redis.call('HGET', 'omni:claims', fence) or '', '^(%d+):(.*)$')
if number == ARGV[6] then
  local f = redis.call('HMGET', 'omni:job:' .. last, 'request', 'suspect', 'revision', 'state', 'fence')
  if f[4] == 'running' and f[5] == fence then
    return {'job', last, f[1], f[2], f[3] or '', redis.call('XLEN', 'omni:log:' .. last)}
  end
end

-- After a crash the jobs that may have caused it go first, few at a time, and nobody joins them.
local line, suspect = 'omni:suspects:' .. queue, '1'
local member = redis.call('ZRANGE', line, 0, 0)[1]
if member then
  local limit = tonumber(redis.call('GET', 'omni:batch_limit:' .. queue) or 1)
  if num_suspects >= limit then return {'hold'} end
elseif num_suspects > 0 then
  return {'hold'}
else
  line, suspect = 'omni:waiting:' .. queue, '0'
  member = redis.call('ZRANGE', line, 0, 0)[1]
  if not member then return {'empty'} end
  redis.call('DEL', 'omni:batch_limit:' .. queue)  -- all suspects have been cleared
end

local id = id_of(member)
local deadline = redis.call('ZSCORE', 'omni:deadlines:' .. queue, id)
if deadline and tonumber(deadline) <= now_ms() then
  redis.call('ZREM', 'omni:deadlines:' .. queue, id)
  cancel(id, 'timeout', DEADLINE_PASSED, iso)
  return {'again'}
end
local key, rq = 'omni:job:' .. id, 'rq:job:' .. id
local f = redis.call('HMGET', key, 'request', 'tag', 'revision', 'cancel', 'owner', 'created')
if f[4] then  -- flagged while a worker that has died held it
  local reason = cjson.decode(f[4])
  take_out_of_line(id, queue, member)
  end_with_failure(id, reason.code == 'timeout' and 'failed' or 'cancelled', reason.code, reason.message, iso)
  return {'again'}
end
if redis.call('HGET', rq, 'status') ~= 'queued' then  -- cancelled or deleted in the dashboard
  take_out_of_line(id, queue, member)
  if f[1] then end_with_failure(id, 'cancelled', 'cancelled', 'The job was cancelled by an operator.', iso) end
  return {'again'}
end

take_out_of_line(id, queue, member)
redis.call('HSET', 'omni:claims', fence, ARGV[6] .. ':' .. id)
local now = now_ms()
local fair = 'omni:fair:' .. queue
if tonumber(f[2] or 0) > tonumber(redis.call('HGET', fair, 'now') or 0) then redis.call('HSET', fair, 'now', f[2]) end
redis.call('SREM', 'omni:own:queued:' .. f[5], id)
redis.call('SADD', 'omni:own:running:' .. f[5], id)
redis.call('ZADD', 'omni:running:' .. fence, string.sub(member, 1, 15), id)
redis.call('HSET', key, 'state', 'running', 'fence', fence, 'worker', ARGV[3], 'claimed', now, 'suspect', suspect)
if redis.call('HSETNX', key, 'first_claimed', now) == 1 then
  observe(queue, 'request_queue_time', now - f[6])
elseif redis.call('EXISTS', 'omni:log:' .. id) == 1 then
  count(queue, 'resumed_jobs')
end
redis.call('HSET', rq, 'status', 'started', 'started_at', iso, 'last_heartbeat', iso, 'worker_name', ARGV[3])
local execution, seconds = id .. ':' .. fence, now / 1000
redis.call('HSET', 'rq:execution:' .. execution, 'id', fence, 'job_id', id, 'created_at', seconds, 'last_heartbeat', seconds,
  'worker_name', ARGV[3])
redis.call('ZADD', 'rq:executions:' .. id, seconds + 86400, fence)
redis.call('ZADD', 'rq:wip:' .. queue, seconds + 86400, execution)  -- RQ must never judge it abandoned: our lease does that
redis.call('SADD', 'rq:worker:' .. ARGV[3] .. ':executions', execution)
return {'job', id, f[1], suspect, f[3] or '', redis.call('XLEN', 'omni:log:' .. id)}
