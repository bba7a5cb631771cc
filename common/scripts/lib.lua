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

-- RQ's own record of a running execution of this job.
local function rq_stop_execution(id, queue, fence, worker)
  redis.call('ZREM', 'rq:wip:' .. queue, id .. ':' .. fence)
  redis.call('DEL', 'rq:execution:' .. id .. ':' .. fence, 'rq:executions:' .. id)
  if worker then redis.call('SREM', 'rq:worker:' .. worker .. ':executions', id .. ':' .. fence) end
end

-- Our state, RQ's state, every index and every TTL change together.
local function finish(id, state, code, iso)
  local key = 'omni:job:' .. id
  local f = redis.call('HMGET', key, 'queue', 'fence', 'ttl', 'failure_ttl', 'member', 'worker', 'owner')
  local queue, fence, now = f[1], f[2], now_ms()
  local ttl = tonumber(state == 'finished' and f[3] or f[4])
  redis.call('HSET', key, 'state', state, 'code', code, 'ended', now)
  redis.call('EXPIRE', key, ttl)
  redis.call('EXPIRE', 'omni:log:' .. id, ttl)
  redis.call('ZREM', 'omni:waiting:' .. queue, f[5])
  redis.call('ZREM', 'omni:suspects:' .. queue, f[5])
  redis.call('ZREM', 'omni:running:' .. fence, id)
  redis.call('ZREM', 'omni:deadlines:' .. queue, id)
  redis.call('ZREM', 'omni:readers:' .. queue, id)
  redis.call('ZADD', 'omni:ended:' .. queue, now + ttl * 1000, id)
  redis.call('ZREMRANGEBYSCORE', 'omni:ended:' .. queue, 0, now)
  redis.call('ZADD', 'omni:jobs:' .. f[7], now + ttl * 1000, id)
  redis.call('ZREMRANGEBYSCORE', 'omni:jobs:' .. f[7], 0, now)
  redis.call('EXPIRE', 'omni:jobs:' .. f[7], 604800)
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
    redis.call('HSETNX', key, 'cancel', cjson.encode({code = code, message = message}))
    redis.call('ZREM', 'omni:deadlines:' .. queue, id)
    redis.call('ZREM', 'omni:readers:' .. queue, id)
    redis.call('PUBLISH', 'omni:control:' .. queue, 'cancel:' .. id)
  end
  return state
end
