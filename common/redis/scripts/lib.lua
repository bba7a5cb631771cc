-- Put in front of every script: the clock, the names of keys, and the one way in which a job ends.
local RQ_STATUS = {finished = 'finished', failed = 'failed', cancelled = 'canceled'}

local DEADLINE_PASSED = 'The request passed its deadline before it was finished; allow more time or ask for fewer tokens.'

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function member_of(ticket, id) return string.format('%015d:%s', ticket, id) end
local function id_of(member) return string.sub(member, 17) end
local function is_alive(fence) return redis.call('ZSCORE', 'omni:workers', fence) ~= false end

-- Counters and histograms (common/redis/metrics.py) change in the step in which what they count happens.
local function count(queue, name, by) redis.call('HINCRBY', 'omni:metrics:' .. queue, name, by or 1) end
local function observe(queue, name, ms)
  local bucket = 1
  while BOUNDS_MS[bucket] and ms > BOUNDS_MS[bucket] do bucket = bucket + 1 end
  count(queue, name .. ':' .. bucket)
  count(queue, name .. ':sum', math.max(0, ms) * 1000)
end

-- What an owner may still spend: a bucket that fills by `per_minute` a minute and holds as much.
local function tokens_left(owner, per_minute, now)
  local f = redis.call('HMGET', 'omni:rate:' .. owner, 'level', 'at')
  local level = tonumber(f[1] or per_minute) + (now - tonumber(f[2] or now)) * per_minute / 60000
  return math.min(per_minute, level)
end

-- What an owner's jobs take of memory: job -> bytes, and their sum in `total`, all in one hash, so that they go together.
local function keep(owner, id, bytes)
  local key = 'omni:kept:' .. owner
  local before = tonumber(redis.call('HGET', key, id) or 0)
  if bytes > 0 then redis.call('HSET', key, id, bytes) else redis.call('HDEL', key, id) end
  if bytes ~= before then redis.call('HINCRBY', key, 'total', string.format('%d', bytes - before)) end
end

-- Forgets what Redis has forgotten by itself since. An owner without jobs keeps nothing, whatever was counted.
local function drop_expired(owner, now)
  local jobs = 'omni:jobs:' .. owner
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', jobs, 0, now, 'LIMIT', 0, 1000)) do
    redis.call('ZREM', jobs, id)
    keep(owner, id, 0)
  end
  if redis.call('ZCARD', jobs) == 0 then redis.call('DEL', 'omni:kept:' .. owner) end
end

-- Fair shares, counted in tokens (docs/decisions/0007). `omni:served:Q` holds, for each owner who waits or runs, the tokens
-- read and made for it, divided by its weight: who was served least is next, and of equals who holds fewer places.
local PRIORITY_STEP = 1e11  -- more than what two owners were served is apart
local INTERRUPTED = 0.5  -- of a priority: who was interrupted goes on before others of its class begin

local function line_of(queue, owner) return 'omni:line:' .. queue .. ':' .. owner end

-- An owner that comes, or comes back, is owed nothing for the time in which it did not ask.
local function enter(queue, owner)
  local served, fair = 'omni:served:' .. queue, 'omni:fair:' .. queue
  if redis.call('ZSCORE', served, owner) then return end
  local least, holders = math.huge, redis.call('HKEYS', 'omni:places:' .. queue)
  for _, level in ipairs(#holders > 0 and redis.call('ZMSCORE', served, unpack(holders)) or {}) do
    least = math.min(least, tonumber(level or 0))
  end
  local f = redis.call('HMGET', fair, 'now', 'served:' .. owner)
  redis.call('ZADD', served, math.max(least < math.huge and least or 0, tonumber(f[1] or 0), tonumber(f[2] or 0)), owner)
  redis.call('HDEL', fair, 'served:' .. owner)
end

local function leave_if_idle(queue, owner)
  if redis.call('EXISTS', line_of(queue, owner)) == 1 or redis.call('HEXISTS', 'omni:places:' .. queue, owner) == 1 then return end
  local level = redis.call('ZSCORE', 'omni:served:' .. queue, owner)
  redis.call('ZREM', 'omni:served:' .. queue, owner)
  if level then redis.call('HSET', 'omni:fair:' .. queue, 'served:' .. owner, level) end
end

local function charge(queue, owner, num_tokens, weight)
  if num_tokens > 0 then
    redis.call('ZADD', 'omni:served:' .. queue, 'XX', 'INCR', string.format('%.3f', num_tokens / weight), owner)
  end
end

local function hold_places(queue, owner, by)
  if redis.call('HINCRBY', 'omni:places:' .. queue, owner, by) <= 0 then redis.call('HDEL', 'omni:places:' .. queue, owner) end
end

-- Where an owner's first job stands in the line now.
local function due_at(queue, owner, class)
  local level = tonumber(redis.call('ZSCORE', 'omni:served:' .. queue, owner) or 0)
  local places = tonumber(redis.call('HGET', 'omni:places:' .. queue, owner) or 0)
  return tonumber(string.format('%.3f', class * PRIORITY_STEP + level + math.min(0.9, places / 1000)))
end

-- The owner's first waiting job stands where its turn is; the later ones only say about where they will.
local function settle(queue, owner)
  local first = redis.call('ZRANGE', line_of(queue, owner), 0, 0, 'WITHSCORES')
  if first[1] then
    redis.call('ZADD', 'omni:waiting:' .. queue, 'XX', 'LT', due_at(queue, owner, first[2]), first[1])
  end
end

-- The job whose turn it is, as its member in the line; false when nobody waits. Who was served since its place was worked out
-- is put farther back first.
local function head_of(queue)
  local waiting = 'omni:waiting:' .. queue
  while true do
    local head = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')
    if not head[1] then return false end
    local owner = redis.call('HGET', 'omni:job:' .. id_of(head[1]), 'owner')
    local first = owner and redis.call('ZRANGE', line_of(queue, owner), 0, 0, 'WITHSCORES') or {}
    if not first[1] then return head[1] end
    if first[1] ~= head[1] and not redis.call('ZSCORE', line_of(queue, owner), head[1]) then
      return head[1]  -- it was put there before owners had lines of their own
    end
    if first[1] ~= head[1] and not redis.call('ZSCORE', waiting, first[1]) then
      redis.call('ZREM', line_of(queue, owner), first[1])  -- it is gone, or was taken by a version without such lines
    else
      local due = due_at(queue, owner, first[2])
      if tonumber(head[2]) >= due then return first[1] end
      redis.call('ZADD', waiting, due, head[1])
      redis.call('ZADD', waiting, 'XX', due, first[1])
    end
  end
end

-- RQ's own record of a running execution of this job.
local function rq_stop_execution(id, queue, fence, worker)
  redis.call('ZREM', 'rq:wip:' .. queue, id .. ':' .. fence)
  redis.call('DEL', 'rq:execution:' .. id .. ':' .. fence, 'rq:executions:' .. id)
  if worker then redis.call('SREM', 'rq:worker:' .. worker .. ':executions', id .. ':' .. fence) end
end

-- Our state, RQ's state, every index and every TTL change together.
local function finish(id, state, code, iso)
  local key = 'omni:job:' .. id
  local f = redis.call('HMGET', key, 'queue', 'fence', 'ttl', 'failure_ttl', 'member', 'worker', 'owner', 'created',
    'first_row', 'cost', 'num_prompt', 'tokens', 'bytes', 'row_bytes', 'idem', 'state', 'places')
  local queue, fence, now = f[1], f[2], now_ms()
  local ttl = tonumber(state == 'finished' and f[3] or f[4])
  redis.call('HSET', key, 'state', state, 'code', code, 'ended', now)
  redis.call('EXPIRE', key, ttl)
  redis.call('EXPIRE', 'omni:log:' .. id, ttl)
  redis.call('ZREM', 'omni:running:' .. fence, id)
  if f[16] == 'running' then hold_places(queue, f[7], -(f[17] or 1)) end
  leave_if_idle(queue, f[7])
  redis.call('ZREM', 'omni:deadlines:' .. queue, id)
  redis.call('ZREM', 'omni:readers:' .. queue, id)
  redis.call('ZADD', 'omni:ended:' .. queue, now + ttl * 1000, id)
  redis.call('ZREMRANGEBYSCORE', 'omni:ended:' .. queue, 0, now)
  redis.call('ZADD', 'omni:jobs:' .. f[7], now + ttl * 1000, id)
  local num_rows = math.max(redis.call('XLEN', 'omni:log:' .. id), tonumber(f[12] or 0))
  keep(f[7], id, (f[13] or 0) + num_rows * (f[14] or 0))  -- it was counted with the longest log that it could have
  drop_expired(f[7], now)
  redis.call('EXPIRE', 'omni:jobs:' .. f[7], math.max(604800, ttl + 86400))
  redis.call('EXPIRE', 'omni:kept:' .. f[7], math.max(604800, ttl + 86400))
  if f[15] then redis.call('EXPIRE', f[15], ttl) end
  redis.call('SREM', 'omni:own:queued:' .. f[7], id)
  redis.call('SREM', 'omni:own:running:' .. f[7], id)
  if tonumber(f[10] or 0) > 0 and redis.call('EXISTS', 'omni:rate:' .. f[7]) == 1 then  -- give back what was not used
    redis.call('HINCRBYFLOAT', 'omni:rate:' .. f[7], 'level', f[10] - (f[9] and f[11] or 0) - f[12])
  end
  if state == 'finished' then
    observe(queue, 'e2e_request_latency', now - f[8])
    if f[9] then observe(queue, 'request_decode_time', now - f[9]) end
  else
    count(queue, 'request_success|' .. (state == 'failed' and 'error' or 'abort'))
    count(queue, 'request_failed|' .. code)
  end
  rq_stop_execution(id, queue, fence, f[6])
  local registry = 'rq:' .. RQ_STATUS[state] .. ':' .. queue
  redis.call('ZADD', registry, math.floor(now / 1000) + ttl, id)
  redis.call('ZREMRANGEBYSCORE', registry, 0, math.floor(now / 1000))
  local rq = 'rq:job:' .. id
  if redis.call('EXISTS', rq) == 1 then
    redis.call('HSET', rq, 'status', RQ_STATUS[state], 'ended_at', iso)
    if state == 'failed' then redis.call('HSET', rq, 'exc_info', code) end
    redis.call('EXPIRE', rq, ttl)
  end
end

-- Ends a job that no worker holds: the last row and the state in one go.
local function end_with_failure(id, state, code, message, iso)
  local log = 'omni:log:' .. id
  local seq = redis.call('XLEN', log) + 1
  local row = cjson.encode({fail = {code = code, message = message}})
  redis.call('XADD', log, seq .. '-0', 'e', row, 'a', 0)
  redis.call('PUBLISH', 'omni:events:0', '[["' .. id .. '",' .. seq .. ',' .. row .. ']]')
  finish(id, state, code, iso)
end

local function take_out_of_line(id, queue, member)
  redis.call('ZREM', 'omni:waiting:' .. queue, member)
  redis.call('ZREM', 'omni:suspects:' .. queue, member)
  redis.call('LREM', 'rq:queue:' .. queue, 1, id)
  local owner = redis.call('HGET', 'omni:job:' .. id, 'owner')
  if owner and redis.call('ZREM', line_of(queue, owner), member) == 1 then settle(queue, owner) end
end

-- A job that no worker holds any more waits again, before what its owner sent later. `line`: 'omni:waiting:' or
-- 'omni:suspects:'. `ahead`: INTERRUPTED, or 0 for one that made room.
local function back_into_line(id, queue, line, ahead)
  local key = 'omni:job:' .. id
  local f = redis.call('HMGET', key, 'member', 'priority', 'fence', 'worker', 'owner', 'places')
  redis.call('ZREM', 'omni:running:' .. f[3], id)
  redis.call('SREM', 'omni:own:running:' .. f[5], id)
  redis.call('SADD', 'omni:own:queued:' .. f[5], id)
  redis.call('HSET', key, 'state', 'queued', 'fence', 0)
  hold_places(queue, f[5], -(f[6] or 1))
  local class = (f[2] or 0) - ahead
  if line == 'omni:waiting:' then redis.call('ZADD', line_of(queue, f[5]), class, f[1]) end
  redis.call('ZADD', line .. queue, due_at(queue, f[5], class), f[1])
  rq_stop_execution(id, queue, f[3], f[4])
  redis.call('HSET', 'rq:job:' .. id, 'status', 'queued')
  redis.call('LPUSH', 'rq:queue:' .. queue, id)
end

-- A waiting job ends here; a running one is flagged, and its worker ends it within a step.
local function cancel(id, code, message, iso)
  local key = 'omni:job:' .. id
  local f = redis.call('HMGET', key, 'state', 'queue', 'member')
  local state, queue = f[1], f[2]
  if state == 'queued' then
    take_out_of_line(id, queue, f[3])
    end_with_failure(id, code == 'timeout' and 'failed' or 'cancelled', code, message, iso)
  elseif state == 'running' then
    redis.call('ZREM', 'omni:deadlines:' .. queue, id)
    redis.call('ZREM', 'omni:readers:' .. queue, id)
    redis.call('HSETNX', key, 'cancel', cjson.encode({code = code, message = message}))
    redis.call('PUBLISH', 'omni:control:' .. queue, 'cancel:' .. id)
  end
  return state
end
