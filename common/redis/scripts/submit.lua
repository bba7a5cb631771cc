-- Enqueues a request: limits, the job's hash, RQ's job and the push happen in one step or not at all.
-- ARGV: id queue owner max_queue weight idem_hash idem_digest background deadline_ms num_fields priority cost max_entries
--       entry_bytes (of the longest log that it can have), then num_fields field/value pairs of our job hash, then the
--       field/value pairs of RQ's job hash
-- Returns {outcome, name, value, ...}:
--   ok        position size, and the quota: in_flight max_in_flight tokens_left tokens_per_minute
--   again     id: the job that this id or Idempotency-Key already stands for
--   mismatch  the Idempotency-Key was used for another body
--   full      size
--   limited   name limit and the quota; for max_kept_bytes also kept (bytes) and expires_ms (0: none will)
--   priority  best: the first priority that this key may ask for
--   memory    used limit
--   evicts    policy
local NUM_FIXED = 14
local JOB_BYTES = 2400  -- the indexes, RQ's hash and the names, beyond what is sent
local RESERVE, SHARE = 0.1, 3  -- of maxmemory kept free; of what is free, what one key may take
local id, queue, owner, max_queue, weight, idem_hash, idem_digest, background, deadline_ms, num_fields, priority, cost,
  max_entries, entry_bytes = unpack(ARGV, 1, NUM_FIXED)
priority, cost, deadline_ms = tonumber(priority), tonumber(cost), tonumber(deadline_ms)
local last_own = NUM_FIXED + 2 * num_fields
local key = JOB .. id

if redis.call('EXISTS', key) == 1 then return {'again', 'id', id} end
local idem = idem_hash ~= '' and IDEM .. owner .. ':' .. idem_hash
if idem then
  local known, digest = unpack(redis.call('HMGET', idem, 'id', 'digest'))
  if known and redis.call('EXISTS', JOB .. known) == 1 then
    if digest ~= idem_digest then return {'mismatch'} end
    return {'again', 'id', known}
  end
end
local waiting, own = WAITING .. queue, owner_queue(queue, owner)
local size = redis.call('ZCARD', waiting)
-- A full queue still takes one job of a key that has none in it: no key shuts the others out.
if size >= tonumber(max_queue) and redis.call('EXISTS', own) == 1 then return {'full', 'size', size} end

-- A tenth of the memory is left for the answers of accepted jobs. It is checked here and not once a second, because a burst
-- fills what is free in less. A user without INFO learns it from the first write, which fails when memory is full.
local info = redis.pcall('INFO', 'memory')
info = type(info) == 'string' and info or ''
local used = tonumber(string.match(info, 'used_memory:(%d+)') or 0)
local max_memory = tonumber(string.match(info, 'maxmemory:(%d+)') or 0)
local policy = string.match(info, 'maxmemory_policy:(%S+)') or 'noeviction'
if policy ~= 'noeviction' then return {'evicts', 'policy', policy} end
local bytes = JOB_BYTES
for at = NUM_FIXED + 1, #ARGV do bytes = bytes + #ARGV[at] end
local most = bytes + max_entries * entry_bytes
local free = max_memory > 0 and max_memory * (1 - RESERVE) - used or math.huge
if most > free then return {'memory', 'used', used, 'limit', max_memory} end
redis.call('SETRANGE', TICKET, 0, '')  -- changes nothing

-- The key's limits (common/redis/key_store.py). A key of the settings has no record, and no limits.
local own_weight, max_in_flight, max_queued, per_minute, ahead, own_kept = unpack(redis.call('HMGET', KEY .. owner,
  'weight', 'max_in_flight', 'max_queued', 'tokens_per_minute', 'priority', 'max_kept_bytes'))
max_in_flight, max_queued, per_minute = tonumber(max_in_flight or 0), tonumber(max_queued or 0), tonumber(per_minute or 0)
own_kept, weight = tonumber(own_kept or 0), tonumber(own_weight or weight)
local now, best = now_ms(), -tonumber(ahead or 0)
local num_queued = redis.call('SCARD', OWN_QUEUED .. owner)
local in_flight = num_queued + redis.call('SCARD', OWN_RUNNING .. owner)
local left = per_minute > 0 and tokens_left(owner, per_minute, now) or 0
local function limited(name, limit, ...)
  return {'limited', 'name', name, 'limit', limit, 'in_flight', in_flight, 'max_in_flight', max_in_flight,
    'tokens_left', math.floor(left), 'tokens_per_minute', per_minute, ...}
end
if priority < best then return {'priority', 'best', best} end
if max_in_flight > 0 and in_flight >= max_in_flight then return limited('max_in_flight', max_in_flight) end
if max_queued > 0 and num_queued >= max_queued then return limited('max_queued', max_queued) end
if per_minute > 0 and left < math.min(cost, per_minute) then return limited('tokens_per_minute', per_minute) end
-- However many keys take what they can, each of them three times what is free, there is always some for the next.
local max_kept = math.min(SHARE * (free - most), own_kept > 0 and own_kept or math.huge)
drop_expired(owner, now)
local kept = tonumber(redis.call('HGET', KEPT .. owner, 'total') or 0)
if kept + most > max_kept then
  local _, first = unpack(redis.call('ZRANGE', OWN_JOBS .. owner, 0, 0, 'WITHSCORES'))
  local expires = tonumber(first) or math.huge
  return limited('max_kept_bytes', math.floor(max_kept), 'kept', kept, 'expires_ms', expires < NOT_ENDED and expires - now or 0)
end

-- Fair shares (lib.lua). The place of an owner's later jobs is what their turn will be if all take as much as they may.
local fair = FAIR .. queue
if redis.call('ZCARD', SERVED .. queue) == 0 then redis.call('DEL', fair) end
enter(queue, owner)
local level = tonumber(redis.call('ZSCORE', SERVED .. queue, owner))
if redis.call('EXISTS', own) == 1 then level = math.max(level, tonumber(redis.call('HGET', fair, 'end:' .. owner) or 0)) end
redis.call('HSET', fair, 'end:' .. owner, string.format('%.3f', level + cost / weight), 'weight:' .. owner, weight)

if per_minute > 0 then
  left = left - cost
  redis.call('HSET', RATE .. owner, 'level', left, 'at', now)
  redis.call('EXPIRE', RATE .. owner, DAY_S)
end
local ticket = redis.call('INCR', TICKET)
local member, score = member_of(ticket, id), string.format('%.3f', level + priority * PRIORITY_STEP)
redis.call('HSET', key, 'queue', queue, 'owner', owner, 'ticket', ticket, 'member', member, 'state', 'queued',
  'score', score,  -- where a worker of the version before puts it back, if it is replaced after the API
  'priority', priority, 'weight', weight, 'cost', per_minute > 0 and cost or 0, 'fence', 0, 'created', now,
  'tokens', 0, 'crashes', 0, 'solo', 0, 'background', background,
  'bytes', bytes, 'row_bytes', entry_bytes, unpack(ARGV, NUM_FIXED + 1, last_own))
keep(owner, id, most)
redis.call('PERSIST', KEPT .. owner)
if idem then  -- it lives as long as its job
  redis.call('HSET', idem, 'id', id, 'digest', idem_digest)
  redis.call('PERSIST', idem)
  redis.call('HSET', key, 'idem', idem)
end
if deadline_ms > 0 then redis.call('ZADD', DEADLINES .. queue, now + deadline_ms, id) end
if background == '0' then redis.call('ZADD', READERS .. queue, now, id) end
redis.call('ZADD', OWN_JOBS .. owner, NOT_ENDED + ticket, id)
redis.call('PERSIST', OWN_JOBS .. owner)
redis.call('SADD', OWN_QUEUED .. owner, id)
redis.call('ZADD', waiting, score, member)
redis.call('ZADD', own, priority, member)
settle(queue, owner)
redis.call('HSET', RQ_JOB .. id, unpack(ARGV, last_own + 1))
redis.call('SADD', RQ_QUEUES, RQ_QUEUE .. queue)
redis.call('RPUSH', RQ_QUEUE .. queue, id)
redis.call('PUBLISH', CONTROL .. queue, WORK)
local position = redis.call('ZRANK', waiting, member)
return {'ok', 'position', position, 'size', size + 1, 'in_flight', in_flight + 1, 'max_in_flight', max_in_flight,
  'tokens_left', math.floor(left), 'tokens_per_minute', per_minute}
