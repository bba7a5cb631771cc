-- Limit check, request, RQ job and push: nothing is half-written.
-- ARGV: id queue owner max_queue weight idem_key idem_digest background deadline_ms num_fields priority cost
--       max_rows row_bytes (of the longest log that it can have), then num_fields field/value pairs of our job hash, then
--       the field/value pairs of RQ's job hash.
-- Returns {'ok', position, size, in_flight, max_in_flight, tokens_left, tokens_per_minute} | {'again', id} | {'mismatch'}
--       | {'full', waiting} | {'limited', name, limit, in_flight, max_in_flight, tokens_left, tokens_per_minute}
--         of 'max_kept_bytes' also the bytes kept and the ms until the first of them expire (0: none will)
--       | {'priority', the best that this key may ask for} | {'memory', used, limit} | {'evicts', maxmemory-policy}
local NUM_FIXED, JOB_BYTES = 14, 2400  -- what the indexes, RQ's hash and the names take beside what is sent
local RESERVE, SHARE = 0.1, 3
local id, queue, owner = ARGV[1], ARGV[2], ARGV[3]
local key = 'omni:job:' .. id
if redis.call('EXISTS', key) == 1 then return {'again', id} end
local idem = ARGV[6] ~= '' and 'omni:idem:' .. owner .. ':' .. ARGV[6]
if idem then
  local known = redis.call('HMGET', idem, 'id', 'digest')
  if known[1] and redis.call('EXISTS', 'omni:job:' .. known[1]) == 1 then
    if known[2] ~= ARGV[7] then return {'mismatch'} end
    return {'again', known[1]}
  end
end
local waiting = 'omni:waiting:' .. queue
local size = redis.call('ZCARD', waiting)
-- A full line still takes one job of a key that has none in it: no key shuts the others out.
if size >= tonumber(ARGV[4]) and redis.call('EXISTS', line_of(queue, owner)) == 1 then return {'full', size} end

-- A tenth of the memory is left for the answers of those that were accepted. This is looked at here, not once a second,
-- because a burst fills what is free in less. Who may not ask is told by the first write, which fails when memory is full.
local info = redis.pcall('INFO', 'memory')
info = type(info) == 'string' and info or ''
local used = tonumber(string.match(info, 'used_memory:(%d+)') or 0)
local max_memory = tonumber(string.match(info, 'maxmemory:(%d+)') or 0)
local policy = string.match(info, 'maxmemory_policy:(%S+)') or 'noeviction'
if policy ~= 'noeviction' then return {'evicts', policy} end
local bytes = JOB_BYTES
for i = NUM_FIXED + 1, #ARGV do bytes = bytes + #ARGV[i] end
local most = bytes + ARGV[13] * ARGV[14]
local free = max_memory > 0 and max_memory * (1 - RESERVE) - used or math.huge
if most > free then return {'memory', used, max_memory} end
redis.call('SETRANGE', 'omni:ticket', 0, '')  -- changes nothing

-- What this key may do (common/redis/key_store.py). A key of the settings has no record, and no limits.
local rights = redis.call('HMGET', 'omni:key:' .. owner, 'weight', 'max_in_flight', 'max_queued', 'tokens_per_minute',
  'priority', 'max_kept_bytes')
local max_in_flight, max_queued = tonumber(rights[2] or 0), tonumber(rights[3] or 0)
local per_minute, priority, cost = tonumber(rights[4] or 0), tonumber(ARGV[11]), tonumber(ARGV[12])
local now, best = now_ms(), -tonumber(rights[5] or 0)
local num_queued = redis.call('SCARD', 'omni:own:queued:' .. owner)
local in_flight = num_queued + redis.call('SCARD', 'omni:own:running:' .. owner)
local left = per_minute > 0 and tokens_left(owner, per_minute, now) or 0
local function limited(name, limit)
  return {'limited', name, limit, in_flight, max_in_flight, math.floor(left), per_minute}
end
if priority < best then return {'priority', best} end
if max_in_flight > 0 and in_flight >= max_in_flight then return limited('max_in_flight', max_in_flight) end
if max_queued > 0 and num_queued >= max_queued then return limited('max_queued', max_queued) end
if per_minute > 0 and left < math.min(cost, per_minute) then return limited('tokens_per_minute', per_minute) end
-- However many keys take what they can, each of them three times what is free, there is always some for the next.
local max_kept = math.min(SHARE * (free - most), tonumber(rights[6] or 0) > 0 and tonumber(rights[6]) or math.huge)
drop_expired(owner, now)
local kept = tonumber(redis.call('HGET', 'omni:kept:' .. owner, 'total') or 0)
if kept + most > max_kept then
  local refusal = limited('max_kept_bytes', math.floor(max_kept))
  local first = redis.call('ZRANGE', 'omni:jobs:' .. owner, 0, 0, 'WITHSCORES')
  local expires = tonumber(first[2]) or math.huge
  refusal[8], refusal[9] = kept, expires < 1e15 and expires - now or 0  -- beyond any time: it has not ended
  return refusal
end

-- Fair shares (lib.lua). Where the owner's later jobs stand is what their turn will be if all take as much as they may.
local fair, weight = 'omni:fair:' .. queue, tonumber(rights[1] or ARGV[5])
if redis.call('ZCARD', 'omni:served:' .. queue) == 0 then redis.call('DEL', fair) end
enter(queue, owner)
local tag, line = tonumber(redis.call('ZSCORE', 'omni:served:' .. queue, owner)), line_of(queue, owner)
if redis.call('EXISTS', line) == 1 then tag = math.max(tag, tonumber(redis.call('HGET', fair, 'end:' .. owner) or 0)) end
redis.call('HSET', fair, 'end:' .. owner, string.format('%.3f', tag + cost / weight), 'weight:' .. owner, weight)

if per_minute > 0 then
  left = left - cost
  redis.call('HSET', 'omni:rate:' .. owner, 'level', left, 'at', now)
  redis.call('EXPIRE', 'omni:rate:' .. owner, 86400)
end
local ticket = redis.call('INCR', 'omni:ticket')
local member, score = member_of(ticket, id), string.format('%.3f', tag + priority * PRIORITY_STEP)
local last_own = NUM_FIXED + 2 * tonumber(ARGV[10])
redis.call('HSET', key, 'queue', queue, 'owner', owner, 'ticket', ticket, 'member', member, 'state', 'queued',
  'score', score,  -- where a worker of the version before puts it back, if it is replaced after the API
  'priority', priority, 'weight', weight, 'cost', per_minute > 0 and cost or 0, 'fence', 0, 'created', now,
  'tokens', 0, 'crashes', 0, 'solo', 0, 'background', ARGV[8],
  'bytes', bytes, 'row_bytes', ARGV[14], unpack(ARGV, NUM_FIXED + 1, last_own))
keep(owner, id, most)
redis.call('PERSIST', 'omni:kept:' .. owner)
if idem then  -- it lives as long as its job
  redis.call('HSET', idem, 'id', id, 'digest', ARGV[7])
  redis.call('PERSIST', idem)
  redis.call('HSET', key, 'idem', idem)
end
local deadline = tonumber(ARGV[9])
if deadline > 0 then redis.call('ZADD', 'omni:deadlines:' .. queue, now + deadline, id) end
if ARGV[8] == '0' then redis.call('ZADD', 'omni:readers:' .. queue, now, id) end
redis.call('ZADD', 'omni:jobs:' .. owner, 1e15 + ticket, id)  -- beyond any time: not ended, in their order
redis.call('PERSIST', 'omni:jobs:' .. owner)
redis.call('SADD', 'omni:own:queued:' .. owner, id)
redis.call('ZADD', waiting, score, member)
redis.call('ZADD', line, priority, member)
settle(queue, owner)
redis.call('HSET', 'rq:job:' .. id, unpack(ARGV, last_own + 1))
redis.call('SADD', 'rq:queues', 'rq:queue:' .. queue)
redis.call('RPUSH', 'rq:queue:' .. queue, id)
redis.call('PUBLISH', 'omni:control:' .. queue, 'work')
local position = redis.call('ZRANK', waiting, member)
return {'ok', position, size + 1, in_flight + 1, max_in_flight, math.floor(left), per_minute}
