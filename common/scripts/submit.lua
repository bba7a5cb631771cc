-- Limit check, request, RQ job and push: nothing is half-written.
-- ARGV: id queue owner max_queue weight idem_key idem_digest background deadline_ms num_fields, then that many
--       field/value pairs of our job hash, then the field/value pairs of RQ's job hash.
-- Returns {'ok', position} | {'again', id} | {'mismatch'} | {'full', waiting}
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
if size >= tonumber(ARGV[4]) then return {'full', size} end

-- Fair shares: each owner's jobs are tagged one service apart, starting from what is being served now.
local fair = 'omni:fair:' .. queue
if size == 0 then redis.call('DEL', fair) end
local tags = redis.call('HMGET', fair, 'now', 'owner:' .. owner)
local tag = math.max(tonumber(tags[1] or 0), tonumber(tags[2] or 0)) + 1 / tonumber(ARGV[5])
redis.call('HSET', fair, 'owner:' .. owner, tag)

local now, ticket = now_ms(), redis.call('INCR', 'omni:ticket')
local member = member_of(ticket, id)
local last_own = 10 + 2 * tonumber(ARGV[10])
redis.call('HSET', key, 'queue', queue, 'owner', owner, 'ticket', ticket, 'member', member, 'score', tag, 'state', 'queued',
  'fence', 0, 'created', now, 'tokens', 0, 'crashes', 0, 'solo', 0, 'background', ARGV[8], unpack(ARGV, 11, last_own))
if idem then
  redis.call('HSET', idem, 'id', id, 'digest', ARGV[7])
  redis.call('EXPIRE', idem, 86400)
end
local deadline = tonumber(ARGV[9])
if deadline > 0 then redis.call('ZADD', 'omni:deadlines:' .. queue, now + deadline, id) end
if ARGV[8] == '0' then redis.call('ZADD', 'omni:readers:' .. queue, now, id) end
redis.call('ZADD', 'omni:jobs:' .. owner, '+inf', id)
redis.call('PERSIST', 'omni:jobs:' .. owner)
redis.call('ZADD', waiting, tag, member)
redis.call('HSET', 'rq:job:' .. id, unpack(ARGV, last_own + 1))
redis.call('SADD', 'rq:queues', 'rq:queue:' .. queue)
redis.call('RPUSH', 'rq:queue:' .. queue, id)
redis.call('PUBLISH', 'omni:control:' .. queue, 'work')
return {'ok', redis.call('ZRANK', waiting, member)}
