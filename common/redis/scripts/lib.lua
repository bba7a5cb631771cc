-- Precedes every script, after the names of common/redis/keys.py and pace.lua: the clock, the shares of owners, a job's end.
local DEADLINE_PASSED = 'The request passed its deadline before it was finished; allow more time or ask for fewer tokens.'
local BY_OPERATOR = 'The job was cancelled by an operator.'
local INTERRUPTED = 0.5  -- of a class: interrupted jobs go on before others of their class begin
local NOT_ENDED = 1e15  -- later than any time: the score of a job that goes on, in its owner's list
local DAY_S, WEEK_S = 86400, 604800

local function now_ms()
  local seconds, microseconds = unpack(redis.call('TIME'))
  return seconds * 1000 + math.floor(microseconds / 1000)
end

local function member_of(ticket, id) return string.format('%015d:%s', ticket, id) end
local function id_of(member) return string.sub(member, 17) end
local function ticket_of(member) return string.sub(member, 1, 15) end
local function is_alive(fence) return redis.call('ZSCORE', WORKERS, fence) ~= false end

-- Counters and histograms (common/redis/metrics.py) change in the step that they count.
local function count(queue, name, by) redis.call('HINCRBY', METRICS .. queue, name, by or 1) end
local function observe(queue, name, ms)  -- or tokens: the bounds are round numbers of either
  local bucket = 1
  while BOUNDS_MS[bucket] and ms > BOUNDS_MS[bucket] do bucket = bucket + 1 end
  count(queue, name .. ':' .. bucket)
  count(queue, name .. ':sum', math.floor(math.max(0, ms) * 1000 + 0.5))
end

-- The tokens that an owner may still spend: a bucket of `per_minute` tokens that fills by as many a minute.
local function tokens_left(owner, per_minute, now)
  local level, at = unpack(redis.call('HMGET', RATE .. owner, 'level', 'at'))
  return math.min(per_minute, tonumber(level or per_minute) + (now - tonumber(at or now)) * per_minute / 60000)
end

-- Tokens per day: `tokens` of the day `day`, which is counted from 1970 in UTC. A job counts for the day of its submission.
local function day_of(ms) return math.floor(ms / (DAY_S * 1000)) end
local function tokens_of_day(owner, today)
  local day, num_tokens = unpack(redis.call('HMGET', DAY .. owner, 'day', 'tokens'))
  return tonumber(day or 0) == today and tonumber(num_tokens) or 0
end

-- The memory that an owner's jobs take: job -> bytes, and their sum in `total`, in one hash so that they expire together.
local function keep(owner, id, bytes)
  local kept = KEPT .. owner
  local before = tonumber(redis.call('HGET', kept, id) or 0)
  if bytes > 0 then redis.call('HSET', kept, id, bytes) else redis.call('HDEL', kept, id) end
  if bytes ~= before then redis.call('HINCRBY', kept, 'total', string.format('%d', bytes - before)) end
end

-- Removes jobs that have expired in Redis from their owner's list and from its memory. Without jobs nothing is kept.
local function drop_expired(owner, now)
  local jobs = OWN_JOBS .. owner
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', jobs, 0, now, 'LIMIT', 0, 1000)) do
    redis.call('ZREM', jobs, id)
    keep(owner, id, 0)
  end
  if redis.call('ZCARD', jobs) == 0 then redis.call('DEL', KEPT .. owner) end
end

-- Fair shares, counted in tokens, apart in each tier (docs/decisions/0007 and 0033). SERVED holds, for each owner with a
-- waiting or running job, the tokens read and made for it, divided by its weight. The owner with the least is next; among
-- equals, the one with fewer places. A job's class is its tier's base, or its window's, plus its priority.
local function owner_queue(queue, tier, owner) return OWNER_QUEUE[tier] .. queue .. ':' .. owner end

-- Jobs that a version without tiers has enqueued have neither field.
local function tier_and_class(id)
  local tier, class, priority = unpack(redis.call('HMGET', JOB .. id, 'tier', 'class', 'priority'))
  return tier or 'default', tonumber(class or priority or 0)
end
local function tier_of(id) return redis.call('HGET', JOB .. id, 'tier') or 'default' end

-- Gives a new or returning owner the level of the others: it gets no credit for the time in which it asked for nothing.
local function enter(queue, tier, owner)
  local served, fair = SERVED[tier] .. queue, FAIR[tier] .. queue
  if redis.call('ZSCORE', served, owner) then return end
  local least, holders = math.huge, redis.call('HKEYS', PLACES[tier] .. queue)
  for _, level in ipairs(#holders > 0 and redis.call('ZMSCORE', served, unpack(holders)) or {}) do
    least = math.min(least, tonumber(level or 0))
  end
  local now, before = unpack(redis.call('HMGET', fair, 'now', 'served:' .. owner))
  redis.call('ZADD', served, math.max(least < math.huge and least or 0, tonumber(now or 0), tonumber(before or 0)), owner)
  redis.call('HDEL', fair, 'served:' .. owner)
end

local function leave_if_idle(queue, tier, owner)
  local served, waits = SERVED[tier] .. queue, redis.call('EXISTS', owner_queue(queue, tier, owner)) == 1
  if waits or redis.call('HEXISTS', PLACES[tier] .. queue, owner) == 1 then return end
  local level = redis.call('ZSCORE', served, owner)
  redis.call('ZREM', served, owner)
  if level then redis.call('HSET', FAIR[tier] .. queue, 'served:' .. owner, level) end
end

local function charge(queue, tier, owner, num_tokens, weight)
  if num_tokens > 0 then
    redis.call('ZADD', SERVED[tier] .. queue, 'XX', 'INCR', string.format('%.3f', num_tokens / weight), owner)
  end
end

local function hold_places(queue, tier, owner, by)
  local places = PLACES[tier] .. queue
  if redis.call('HINCRBY', places, owner, by) <= 0 then redis.call('HDEL', places, owner) end
end

-- A score in the queue. Doubles of this size are 0.002 apart or less, so places count in steps of 0.005.
local function score_of(class, level, places)
  return tonumber(string.format('%.3f', class * CLASS_STEP + level + math.min(0.9, places * 0.005)))
end

-- The score of an owner's first job in the queue, as of now.
local function due_at(queue, tier, owner, class)
  local level = tonumber(redis.call('ZSCORE', SERVED[tier] .. queue, owner) or 0)
  return score_of(class, level, tonumber(redis.call('HGET', PLACES[tier] .. queue, owner) or 0))
end

-- Moves the owner's first waiting job to its exact place; the places of its later jobs are estimates.
local function settle(queue, tier, owner)
  local first, class = unpack(redis.call('ZRANGE', owner_queue(queue, tier, owner), 0, 0, 'WITHSCORES'))
  if first then redis.call('ZADD', WAITING .. queue, 'XX', 'LT', due_at(queue, tier, owner, class), first) end
end

-- The member of the queue that is next, or false when nothing waits. A head whose owner has been served since its score
-- was computed is moved back first.
local function head_of(queue)
  local waiting = WAITING .. queue
  while true do
    local head, score = unpack(redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES'))
    if not head then return false end
    local owner, tier = redis.call('HGET', JOB .. id_of(head), 'owner'), tier_of(id_of(head))
    if not owner then return head end
    local own = owner_queue(queue, tier, owner)
    local first, class = unpack(redis.call('ZRANGE', own, 0, 0, 'WITHSCORES'))
    if not first then return head end
    if first ~= head and not redis.call('ZSCORE', own, head) then
      return head  -- enqueued by a version without queues of owners
    end
    if first ~= head and not redis.call('ZSCORE', waiting, first) then
      redis.call('ZREM', own, first)  -- it has ended, or a version without queues of owners has claimed it
    else
      local due = due_at(queue, tier, owner, class)
      if tonumber(score) >= due then return first end
      redis.call('ZADD', waiting, due, head)
      redis.call('ZADD', waiting, 'XX', due, first)
    end
  end
end

local function dequeue(id, queue, member)
  if redis.call('ZREM', LATER .. queue, id) == 1 then
    redis.call('ZREM', RQ_SCHEDULED .. queue, id)
    return
  end
  count_waiting(id, queue, -1)
  redis.call('ZREM', WAITING .. queue, member)
  redis.call('ZREM', SUSPECTS .. queue, member)
  redis.call('LREM', RQ_QUEUE .. queue, 1, id)
  local owner, tier = redis.call('HGET', JOB .. id, 'owner'), tier_of(id)
  if owner and redis.call('ZREM', owner_queue(queue, tier, owner), member) == 1 then settle(queue, tier, owner) end
end

-- What the owner has been served when its next job comes, if all its jobs until then take as much as they may.
local function next_level(queue, tier, owner)
  enter(queue, tier, owner)
  local level = tonumber(redis.call('ZSCORE', SERVED[tier] .. queue, owner))
  if redis.call('EXISTS', owner_queue(queue, tier, owner)) == 0 then return level end
  return math.max(level, tonumber(redis.call('HGET', FAIR[tier] .. queue, 'end:' .. owner) or 0))
end

-- The forecast of a job that is not yet in the queue (pace.lua).
local function forecast_new(view, tier, class, level, num_prompt)
  local rank = redis.call('ZCOUNT', WAITING .. view.queue, '-inf', score_of(class, level, 0))
  return forecast(view, tier, tostring(class), num_prompt, rank, false)
end

-- Puts a new job at the end of its owner's part of the queue and wakes the workers. Returns its forecast.
local function join_queue(id, queue, ticket, view)
  local key, member = JOB .. id, member_of(ticket, id)
  local owner, weight, num_prompt, planned, places = unpack(redis.call('HMGET', key,
    'owner', 'weight', 'num_prompt', 'planned', 'places'))
  local tier, class = tier_and_class(id)
  local fair, own = FAIR[tier] .. queue, owner_queue(queue, tier, owner)
  if redis.call('ZCARD', SERVED[tier] .. queue) == 0 then redis.call('DEL', fair) end
  local level = next_level(queue, tier, owner)
  redis.call('HSET', fair, 'end:' .. owner, string.format('%.3f', level + (num_prompt + planned * places) / weight),
    'weight:' .. owner, weight)
  local start, eta = forecast_new(view, tier, class, level, num_prompt)
  local score = score_of(class, level, 0)
  redis.call('HSET', key, 'ticket', ticket, 'member', member, 'queued', view.now)
  if start >= 0 and view.loads_in == 0 and has_measured(view, start) then redis.call('HSET', key, 'told', math.floor(start)) end
  redis.call('ZADD', WAITING .. queue, score, member)
  redis.call('ZADD', own, class, member)
  settle(queue, tier, owner)
  count_waiting(id, queue, 1)
  redis.call('SADD', RQ_QUEUES, RQ_QUEUE .. queue)
  redis.call('RPUSH', RQ_QUEUE .. queue, id)
  redis.call('PUBLISH', CONTROL .. queue, WORK)
  return eta
end

-- Removes RQ's record of the execution of a job by this worker.
local function rq_stop_execution(id, queue, fence, worker)
  local execution = id .. ':' .. fence
  redis.call('ZREM', RQ_WIP .. queue, execution)
  redis.call('DEL', RQ_EXECUTION .. execution, RQ_EXECUTIONS .. id)
  if worker then redis.call('SREM', RQ_WORKER .. worker .. RQ_WORKER_EXECUTIONS, execution) end
end

local function rq_finish(id, queue, state, code, ttl, now, iso)
  local registry, seconds, job = RQ_REGISTRY[state] .. queue, math.floor(now / 1000), RQ_JOB .. id
  redis.call('ZADD', registry, seconds + ttl, id)
  redis.call('ZREMRANGEBYSCORE', registry, 0, seconds)
  if redis.call('EXISTS', job) == 0 then return end
  redis.call('HSET', job, 'status', RQ_STATUS[state], 'ended_at', iso)
  if state == 'failed' then redis.call('HSET', job, 'exc_info', code) end
  redis.call('EXPIRE', job, ttl)
end

-- What keys used since Redis holds data, for metrics; the ledger has it by day.
local function count_usage(key, owner, num_prompt, num_tokens)
  local cached, gpu_us = unpack(redis.call('HMGET', key, 'cached', 'gpu_us'))
  local used = {prompt = num_prompt, cached = cached, completion = num_tokens, gpu_us = gpu_us}
  for kind, number in pairs(used) do
    if number and tonumber(number) > 0 then redis.call('HINCRBY', KEY_USAGE, owner .. '|' .. kind, number) end
  end
end

-- Tells the dispatcher of an ended job: the one seam from Redis to what outlives it (dispatcher/outbox.py).
local function tell_dispatcher(id, state, now)
  local entry = {'id', id, 'state', state, 'ended', now}
  local names = {'owner', 'model', 'tier', 'kind', 'background', 'batch', 'archive', 'num_prompt', 'cached', 'tokens',
    'gpu_us', 'first_row', 'finish_reason'}
  for at, value in ipairs(redis.call('HMGET', JOB .. id, unpack(names))) do
    if value then
      entry[#entry + 1] = names[at]
      entry[#entry + 1] = value
    end
  end
  redis.call('XADD', OUTBOX, '*', unpack(entry))
end

-- Ends a job: its state, RQ's state, every index and every time to live change together.
local function finish(id, state, code, iso)
  local key, log, now = JOB .. id, LOG .. id, now_ms()
  local queue, owner, fence, worker, places, before = unpack(redis.call('HMGET', key,
    'queue', 'owner', 'fence', 'worker', 'places', 'state'))
  local created, first_claimed, first_row, num_prompt, num_tokens, cost, bytes, row_bytes = unpack(redis.call('HMGET', key,
    'created', 'first_claimed', 'first_row', 'num_prompt', 'tokens', 'cost', 'bytes', 'row_bytes'))
  local idem, ttl, failure_ttl, archive = unpack(redis.call('HMGET', key, 'idem', 'ttl', 'failure_ttl', 'archive'))
  ttl = tonumber(state == 'finished' and ttl or failure_ttl)
  local listed = ttl  -- in its owner's list, whose order is that of the ends
  if archive == '1' then ttl = math.max(ttl, DAY_S) end  -- until the dispatcher has archived it (archived.lua)
  redis.call('HSET', key, 'state', state, 'code', code, 'ended', now)
  redis.call('EXPIRE', key, ttl)
  redis.call('EXPIRE', log, ttl)
  if idem then redis.call('EXPIRE', idem, ttl) end
  redis.call('ZREM', RUNNING .. fence, id)
  redis.call('ZREM', DEADLINES .. queue, id)
  redis.call('ZREM', READERS .. queue, id)
  redis.call('SREM', OWN_QUEUED .. owner, id)
  redis.call('SREM', OWN_RUNNING .. owner, id)
  local tier = tier_of(id)
  if before == 'running' then
    learn_full(queue, now)
    hold_places(queue, tier, owner, -(places or 1))
    settle(queue, tier, owner)
  end
  leave_if_idle(queue, tier, owner)

  redis.call('ZADD', OWN_JOBS .. owner, now + listed * 1000, id)
  local num_entries = math.max(redis.call('XLEN', log), tonumber(num_tokens or 0))
  keep(owner, id, (bytes or 0) + num_entries * (row_bytes or 0))  -- until now with the longest log that it could have
  drop_expired(owner, now)
  redis.call('EXPIRE', OWN_JOBS .. owner, math.max(WEEK_S, ttl + DAY_S))
  redis.call('EXPIRE', KEPT .. owner, math.max(WEEK_S, ttl + DAY_S))
  local num_used = (first_row and num_prompt or 0) + num_tokens
  if tonumber(cost or 0) > 0 and redis.call('EXISTS', RATE .. owner) == 1 then  -- give back what was not used
    redis.call('HINCRBYFLOAT', RATE .. owner, 'level', cost - num_used)
  end
  count_usage(key, owner, first_row and num_prompt or 0, num_tokens)
  local day, day_cost = unpack(redis.call('HMGET', key, 'day', 'day_cost'))
  if day and redis.call('HGET', DAY .. owner, 'day') == day then
    redis.call('HINCRBY', DAY .. owner, 'tokens', string.format('%d', num_used - day_cost))
  end

  if state == 'finished' then
    learn_end(id, queue, now)
    observe(queue, 'e2e_request_latency', now - created)
    local num_choices = math.max(1, tonumber(places or 1))
    observe(queue, 'request_params_n', num_choices)
    if first_row then
      observe(queue, 'request_decode_time', now - first_row)
      local num_gaps = tonumber(num_tokens or 0) / num_choices - 1  -- of a choice
      if num_gaps > 0 then observe(queue, 'request_time_per_output_token', (now - first_row) / num_gaps) end
    end
    if first_claimed then observe(queue, 'request_inference_time', now - first_claimed) end
    observe(queue, 'request_prompt_tokens', tonumber(num_prompt or 0))
    observe(queue, 'request_generation_tokens', tonumber(num_tokens or 0))
    observe(queue, 'request_params_max_tokens', tonumber(redis.call('HGET', key, 'max_tokens') or 0))
  else
    count(queue, 'request_success|' .. (state == 'failed' and 'error' or 'abort'))
    count(queue, 'request_failed|' .. code)
  end
  rq_stop_execution(id, queue, fence, worker)
  rq_finish(id, queue, state, code, ttl, now, iso)
  tell_dispatcher(id, state, now)
end

-- Ends a job that no worker holds: its last log entry and its state in one step.
local function end_with_failure(id, state, code, message, iso)
  local log = LOG .. id
  local seq = redis.call('XLEN', log) + 1
  local event = cjson.encode({fail = {code = code, message = message}})
  redis.call('XADD', log, seq .. '-0', 'e', event, 'a', 0)
  redis.call('PUBLISH', EVENTS, '[["' .. id .. '",' .. seq .. ',' .. event .. ']]')
  finish(id, state, code, iso)
end

-- Puts a job that its worker no longer holds back into the queue, before its owner's later jobs. `queues`: WAITING or
-- SUSPECTS. `ahead`: INTERRUPTED, or 0 for a job that made room.
local function requeue(id, queue, queues, ahead)
  local key = JOB .. id
  local member, fence, worker, owner, places = unpack(redis.call('HMGET', key,
    'member', 'fence', 'worker', 'owner', 'places'))
  local tier, class = tier_and_class(id)
  redis.call('ZREM', RUNNING .. fence, id)
  if redis.call('SREM', OWN_RUNNING .. owner, id) == 1 then redis.call('SADD', OWN_QUEUED .. owner, id) end
  redis.call('HSET', key, 'state', 'queued', 'fence', 0)
  hold_places(queue, tier, owner, -(places or 1))
  if queues == WAITING then redis.call('ZADD', owner_queue(queue, tier, owner), class - ahead, member) end
  redis.call('ZADD', queues .. queue, due_at(queue, tier, owner, class - ahead), member)
  settle(queue, tier, owner)
  count_waiting(id, queue, 1)
  rq_stop_execution(id, queue, fence, worker)
  redis.call('HSET', RQ_JOB .. id, 'status', 'queued')
  redis.call('LPUSH', RQ_QUEUE .. queue, id)
end

-- Ends a waiting job; flags a running one, which its worker ends within a step. Returns the state before.
local function cancel(id, code, message, iso)
  local key = JOB .. id
  local state, queue, member = unpack(redis.call('HMGET', key, 'state', 'queue', 'member'))
  if state == 'queued' then
    dequeue(id, queue, member)
    end_with_failure(id, code == 'timeout' and 'failed' or 'cancelled', code, message, iso)
  elseif state == 'running' then
    redis.call('ZREM', DEADLINES .. queue, id)
    redis.call('ZREM', READERS .. queue, id)
    redis.call('HSETNX', key, 'cancel', cjson.encode({code = code, message = message}))
    redis.call('PUBLISH', CONTROL .. queue, CANCEL .. id)
  end
  return state
end
