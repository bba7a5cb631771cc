-- Claims the head of the queue for a worker, or nothing: the head is never skipped.
-- ARGV: fence queue worker iso num_suspects (claimed and not yet cleared) number (of the claim: a repeated number gets the
--       same job, so that a lost answer can be asked for again) expected ('' or the only job to claim), then the ids of
--       this worker's jobs that make room for it and go back into the queue (only with `expected`)
-- Returns {'fenced'} | {'empty'} | {'hold'} | {'again'} | {'changed'} (another job is the head by now, or a job of this
--       worker cannot make room) | {'job', name, value, ...}
local fence, queue, worker, iso, num_suspects, number, expected = unpack(ARGV, 1, 7)
local making_room = {unpack(ARGV, 8)}
if not is_alive(fence) then return {'fenced'} end
num_suspects = tonumber(num_suspects)

local function claimed(id)
  local request, suspect, revision, owner, priority, made_room = unpack(redis.call('HMGET', JOB .. id,
    'request', 'suspect', 'revision', 'owner', 'priority', 'made_room'))
  return {'job', 'id', id, 'request', request, 'suspect', suspect, 'revision', revision or '',
    'num_entries', redis.call('XLEN', LOG .. id), 'owner', owner, 'priority', priority or 0, 'made_room', made_room or 0}
end

local last_number, last = string.match(redis.call('HGET', CLAIMS, fence) or '', '^(%d+):(.*)$')
if last_number == number then
  local state, holder = unpack(redis.call('HMGET', JOB .. last, 'state', 'fence'))
  if state == 'running' and holder == fence then return claimed(last) end
end

-- After a crash the jobs that may have caused it go first, few at a time, and no other job joins them.
local suspect = '1'
local member = redis.call('ZRANGE', SUSPECTS .. queue, 0, 0)[1]
if member then
  if expected ~= '' then return {'changed'} end
  if num_suspects >= tonumber(redis.call('GET', BATCH_LIMIT .. queue) or 1) then return {'hold'} end
elseif num_suspects > 0 then
  return {'hold'}
else
  suspect = '0'
  member = head_of(queue)
  if not member then return {'empty'} end
  if expected ~= '' and expected ~= id_of(member) then return {'changed'} end
  for _, other in ipairs(making_room) do
    local state, holder, is_suspect = unpack(redis.call('HMGET', JOB .. other, 'state', 'fence', 'suspect'))
    if state ~= 'running' or holder ~= fence or is_suspect == '1' then return {'changed'} end
  end
  redis.call('DEL', BATCH_LIMIT .. queue)  -- all suspects have been cleared
end

local id, now = id_of(member), now_ms()
local deadline = redis.call('ZSCORE', DEADLINES .. queue, id)
if deadline and tonumber(deadline) <= now then
  redis.call('ZREM', DEADLINES .. queue, id)
  cancel(id, 'timeout', DEADLINE_PASSED, iso)
  return {'again'}
end
local key, rq_job, fair = JOB .. id, RQ_JOB .. id, FAIR .. queue
local request, flag, owner, places, weight, created, num_prompt, priority = unpack(redis.call('HMGET', key,
  'request', 'cancel', 'owner', 'places', 'weight', 'created', 'num_prompt', 'priority'))
if flag then  -- it was cancelled while a worker held it that has died
  local reason = cjson.decode(flag)
  dequeue(id, queue, member)
  end_with_failure(id, reason.code == 'timeout' and 'failed' or 'cancelled', reason.code, reason.message, iso)
  return {'again'}
end
if redis.call('HGET', rq_job, 'status') ~= 'queued' then  -- cancelled or deleted in the dashboard
  dequeue(id, queue, member)
  if request then end_with_failure(id, 'cancelled', 'cancelled', BY_OPERATOR, iso) end
  return {'again'}
end

for _, other in ipairs(making_room) do
  redis.call('HINCRBY', JOB .. other, 'made_room', 1)
  count(queue, 'jobs_that_made_room')
  requeue(other, queue, WAITING, 0)
end
dequeue(id, queue, member)
redis.call('HSET', CLAIMS, fence, number .. ':' .. id)
enter(queue, owner)
if tonumber(priority or 0) == 0 then
  local level = tonumber(redis.call('ZSCORE', SERVED .. queue, owner))
  if level > tonumber(redis.call('HGET', fair, 'now') or 0) then redis.call('HSET', fair, 'now', level) end
end
hold_places(queue, owner, places or 1)
redis.call('SREM', OWN_QUEUED .. owner, id)
redis.call('SADD', OWN_RUNNING .. owner, id)
redis.call('ZADD', RUNNING .. fence, ticket_of(member), id)
redis.call('HSET', key, 'state', 'running', 'fence', fence, 'worker', worker, 'claimed', now, 'suspect', suspect)
if redis.call('HSETNX', key, 'first_claimed', now) == 1 then
  observe(queue, 'request_queue_time', now - created)
  charge(queue, owner, tonumber(num_prompt), weight or 1)
elseif redis.call('EXISTS', LOG .. id) == 1 then
  count(queue, 'resumed_jobs')
end

local execution, seconds = id .. ':' .. fence, now / 1000
redis.call('HSET', rq_job, 'status', 'started', 'started_at', iso, 'last_heartbeat', iso, 'worker_name', worker)
redis.call('HSET', RQ_EXECUTION .. execution, 'id', fence, 'job_id', id, 'created_at', seconds, 'last_heartbeat', seconds,
  'worker_name', worker)
redis.call('ZADD', RQ_EXECUTIONS .. id, seconds + DAY_S, fence)
redis.call('ZADD', RQ_WIP .. queue, seconds + DAY_S, execution)  -- RQ must never judge it abandoned: our lease does that
redis.call('SADD', RQ_WORKER .. worker .. RQ_WORKER_EXECUTIONS, execution)
return claimed(id)
