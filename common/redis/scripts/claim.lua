-- Takes the head of the line for a worker, or nothing: the head is never skipped.
-- ARGV: fence queue worker_name iso num_suspects (claimed and not yet cleared) number (of the claim, so that one whose
--       answer was lost can be repeated) expected ('' or the only job that is to be taken), then the ids of jobs of this
--       worker that make room for it: they wait again, and are named only with `expected`
-- Returns {'fenced'} | {'empty'} | {'hold'} | {'again'} | {'changed'} (another is the head by now,
--       or a job of this worker cannot make room)
--       | {'job', id, request, suspect, revision, rows in its log, owner, priority, how often it made room}
local fence, queue, iso = ARGV[1], ARGV[2], ARGV[4]
if not is_alive(fence) then return {'fenced'} end
local num_suspects = tonumber(ARGV[5])

local function claimed(id)
  local f = redis.call('HMGET', 'omni:job:' .. id, 'request', 'suspect', 'revision', 'owner', 'priority', 'made_room')
  return {'job', id, f[1], f[2], f[3] or '', redis.call('XLEN', 'omni:log:' .. id), f[4], f[5] or 0, f[6] or 0}
end

local number, last = string.match(redis.call('HGET', 'omni:claims', fence) or '', '^(%d+):(.*)$')
if number == ARGV[6] then
  local f = redis.call('HMGET', 'omni:job:' .. last, 'state', 'fence')
  if f[1] == 'running' and f[2] == fence then return claimed(last) end
end

-- After a crash the jobs that may have caused it go first, few at a time, and nobody joins them.
local line, suspect = 'omni:suspects:' .. queue, '1'
local member = redis.call('ZRANGE', line, 0, 0)[1]
if member then
  if ARGV[7] ~= '' then return {'changed'} end
  local limit = tonumber(redis.call('GET', 'omni:batch_limit:' .. queue) or 1)
  if num_suspects >= limit then return {'hold'} end
elseif num_suspects > 0 then
  return {'hold'}
else
  line, suspect = 'omni:waiting:' .. queue, '0'
  member = head_of(queue)
  if not member then return {'empty'} end
  if ARGV[7] ~= '' and ARGV[7] ~= id_of(member) then return {'changed'} end
  for i = 8, #ARGV do
    local held = redis.call('HMGET', 'omni:job:' .. ARGV[i], 'state', 'fence', 'suspect')
    if held[1] ~= 'running' or held[2] ~= fence or held[3] == '1' then return {'changed'} end
  end
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
local f = redis.call('HMGET', key, 'request', 'places', 'weight', 'cancel', 'owner', 'created', 'num_prompt',
  'priority')
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

for i = 8, #ARGV do
  redis.call('HINCRBY', 'omni:job:' .. ARGV[i], 'made_room', 1)
  count(queue, 'jobs_that_made_room')
  back_into_line(ARGV[i], queue, 'omni:waiting:', 0)
end
take_out_of_line(id, queue, member)
redis.call('HSET', 'omni:claims', fence, ARGV[6] .. ':' .. id)
local now, fair = now_ms(), 'omni:fair:' .. queue
enter(queue, f[5])
if tonumber(f[8] or 0) == 0 then
  local level = tonumber(redis.call('ZSCORE', 'omni:served:' .. queue, f[5]))
  if level > tonumber(redis.call('HGET', fair, 'now') or 0) then redis.call('HSET', fair, 'now', level) end
end
hold_places(queue, f[5], f[2] or 1)
redis.call('SREM', 'omni:own:queued:' .. f[5], id)
redis.call('SADD', 'omni:own:running:' .. f[5], id)
redis.call('ZADD', 'omni:running:' .. fence, string.sub(member, 1, 15), id)
redis.call('HSET', key, 'state', 'running', 'fence', fence, 'worker', ARGV[3], 'claimed', now, 'suspect', suspect)
if redis.call('HSETNX', key, 'first_claimed', now) == 1 then
  observe(queue, 'request_queue_time', now - f[6])
  charge(queue, f[5], tonumber(f[7]), f[3] or 1)
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
return claimed(id)
