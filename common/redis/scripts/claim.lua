-- Claims the head of the queue for a worker, or nothing: the head is never skipped.
-- ARGV: fence queue worker iso num_suspects (claimed and not yet cleared) number (of the claim: a repeated number gets the
--       same job, so that a lost answer can be asked for again) expected ('' or the only job to claim), then the ids of
--       this worker's jobs, of any owner, that make room for it and go back into the queue (only with `expected`)
-- Returns {'fenced'} | {'empty'} | {'hold'} | {'again'} | {'changed'} (another job is the head by now, or a job of this
--       worker cannot make room) | {'job', name, value, ...}
local fence, queue, worker, iso, num_suspects, number, expected = unpack(ARGV, 1, 7)
local making_room = {unpack(ARGV, 8)}
if not is_alive(fence) then return {'fenced'} end
num_suspects = tonumber(num_suspects)

local function claimed(id)
  local request, suspect, revision, owner, made_room, expected_tokens = unpack(redis.call('HMGET', JOB .. id,
    'request', 'suspect', 'revision', 'owner', 'made_room', 'expected'))
  local tier, class = tier_and_class(id)
  return {'job', 'id', id, 'request', request, 'suspect', suspect, 'revision', revision or '',
    'num_entries', redis.call('XLEN', LOG .. id), 'owner', owner, 'tier', tier, 'class', class, 'made_room', made_room or 0,
    'expected', expected_tokens or 0}
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
  if not member then
    redis.call('DEL', BACKLOG .. queue)  -- it is empty, unless a worker of a version without backlogs has claimed
    return {'empty'}
  end
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
local key, rq_job, tier, class = JOB .. id, RQ_JOB .. id, tier_and_class(id)
local request, flag, owner, places, weight, created, num_prompt = unpack(redis.call('HMGET', key,
  'request', 'cancel', 'owner', 'places', 'weight', 'created', 'num_prompt'))
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
  -- A job of the same tier makes room a bounded number of times (worker/jobs/room.py), one of a later tier whenever it must.
  local is_paused = BASES[tier_of(other)] > BASES[tier]
  if not is_paused then redis.call('HINCRBY', JOB .. other, 'made_room', 1) end
  count(queue, is_paused and 'paused_jobs' or 'jobs_that_made_room')
  requeue(other, queue, WAITING, 0)
end
dequeue(id, queue, member)
redis.call('HSET', CLAIMS, fence, number .. ':' .. id)
enter(queue, tier, owner)
if class == BASES[tier] then  -- those of another priority or window may be far ahead of the others, or far behind
  local fair, level = FAIR[tier] .. queue, tonumber(redis.call('ZSCORE', SERVED[tier] .. queue, owner))
  if level > tonumber(redis.call('HGET', fair, 'now') or 0) then redis.call('HSET', fair, 'now', level) end
end
hold_places(queue, tier, owner, places or 1)
if redis.call('SREM', OWN_QUEUED .. owner, id) == 1 then redis.call('SADD', OWN_RUNNING .. owner, id) end
redis.call('ZADD', RUNNING .. fence, ticket_of(member), id)
redis.call('HSET', key, 'state', 'running', 'fence', fence, 'worker', worker, 'claimed', now, 'suspect', suspect)
if redis.call('HSETNX', key, 'first_claimed', now) == 1 then
  observe(queue, 'request_queue_time', now - created)
  charge(queue, tier, owner, tonumber(num_prompt), weight or 1)
  learn_start(id, queue, tier, now)
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
