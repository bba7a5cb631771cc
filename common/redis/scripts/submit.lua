-- Enqueues a request: limits, the job's hash, RQ's job and the push happen in one step or not at all.
-- ARGV: id queue owner max_queue weight idem_hash idem_digest background deadline_ms num_fields priority cost max_entries
--       entry_bytes (of the longest log that it can have) tier base (of its class) not_before (unix ms, 0: at once)
--       must_keep ('1': refuse it if it cannot end by its deadline), then num_fields field/value pairs of our job hash,
--       then the field/value pairs of RQ's job hash
-- Returns {outcome, name, value, ...}:
--   ok        position (-1: it waits for its not_before) eta_ms (to its first token; -1: unknown) place_ms (between two jobs that start)
--             size, and the quota: in_flight max_in_flight tokens_left tokens_per_minute left_today tokens_per_day
--             day_left_ms (to the next day in UTC)
--   again     id: the job that this id or Idempotency-Key already stands for
--   mismatch  the Idempotency-Key was used for another body
--   full      size place_ms
--   late      needed_ms: the deadline that can be kept; -1: none, as things stand
--   limited   name limit place_ms and the quota; for max_kept_bytes also kept (bytes) and expires_ms (0: none will)
--   priority  best: the first priority that this key may ask for
--   memory    used limit
--   evicts    policy
local NUM_FIXED = 18
local JOB_BYTES = 2400  -- the indexes, RQ's hash and the names, beyond what is sent
local RESERVE, SHARE = 0.1, 3  -- of maxmemory kept free; of what is free, what one key may take
local id, queue, owner, max_queue, weight, idem_hash, idem_digest, background, deadline_ms, num_fields, priority, cost,
  max_entries, entry_bytes, tier, base, not_before, must_keep = unpack(ARGV, 1, NUM_FIXED)
priority, cost, deadline_ms, not_before = tonumber(priority), tonumber(cost), tonumber(deadline_ms), tonumber(not_before)
local class = base + priority
local last_own, fields = NUM_FIXED + 2 * num_fields, {}
for at = NUM_FIXED + 1, last_own, 2 do fields[ARGV[at]] = ARGV[at + 1] end
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
local waiting, own = WAITING .. queue, owner_queue(queue, tier, owner)
local size, now = redis.call('ZCARD', waiting), now_ms()
local is_later = not_before > now
local function pause(view) return math.ceil(place_ms(view or view_of(queue, now, true), tier, tostring(class))) end
-- Jobs of later tiers fill no place. A full queue still takes one job of a key that has none in it: no key shuts the
-- others out.
local num_before, has_some = redis.call('ZCOUNT', waiting, '-inf', (BASES[tier] + 500) * CLASS_STEP), 0
if is_later then
  num_before, has_some = redis.call('ZCARD', LATER .. queue), redis.call('SCARD', OWN_QUEUED .. owner)
else
  has_some = redis.call('EXISTS', own)
end
if num_before >= tonumber(max_queue) and has_some > 0 then return {'full', 'size', num_before, 'place_ms', pause()} end

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
local own_weight, max_in_flight, max_queued, per_minute, ahead, own_kept, per_day = unpack(redis.call('HMGET', KEY .. owner,
  'weight', 'max_in_flight', 'max_queued', 'tokens_per_minute', 'priority', 'max_kept_bytes', 'tokens_per_day'))
max_in_flight, max_queued, per_minute = tonumber(max_in_flight or 0), tonumber(max_queued or 0), tonumber(per_minute or 0)
own_kept, weight, per_day = tonumber(own_kept or 0), tonumber(own_weight or weight), tonumber(per_day or 0)
local best, is_line = -tonumber(ahead or 0), (fields.batch or '') ~= ''
if is_line then  -- a batch takes no place and no minute's tokens from its key's other requests; those of the day it does
  max_in_flight, max_queued, per_minute = 0, 0, 0
end
local num_queued = redis.call('SCARD', OWN_QUEUED .. owner)
local in_flight = num_queued + redis.call('SCARD', OWN_RUNNING .. owner)
local left = per_minute > 0 and tokens_left(owner, per_minute, now) or 0
local today = day_of(now)
local left_today = per_day > 0 and per_day - tokens_of_day(owner, today) or 0
local function quota(num_in_flight)
  return 'in_flight', num_in_flight, 'max_in_flight', max_in_flight, 'tokens_left', math.floor(left), 'tokens_per_minute',
    per_minute, 'left_today', left_today, 'tokens_per_day', per_day, 'day_left_ms', (today + 1) * DAY_S * 1000 - now
end
local function limited(name, limit, kept, expires_ms)
  return {'limited', 'name', name, 'limit', limit, 'kept', kept or 0, 'expires_ms', expires_ms or 0, 'place_ms', pause(),
    quota(in_flight)}
end
if priority < best then return {'priority', 'best', best} end
if max_in_flight > 0 and in_flight >= max_in_flight then return limited('max_in_flight', max_in_flight) end
if max_queued > 0 and num_queued >= max_queued then return limited('max_queued', max_queued) end
if per_minute > 0 and left < math.min(cost, per_minute) then return limited('tokens_per_minute', per_minute) end
if per_day > 0 and left_today < math.min(cost, per_day) then return limited('tokens_per_day', per_day) end
-- However many keys take what they can, each of them three times what is free, there is always some for the next.
local max_kept = math.min(SHARE * (free - most), own_kept > 0 and own_kept or math.huge)
drop_expired(owner, now)
local kept = tonumber(redis.call('HGET', KEPT .. owner, 'total') or 0)
if kept + most > max_kept then
  local _, first = unpack(redis.call('ZRANGE', OWN_JOBS .. owner, 0, 0, 'WITHSCORES'))
  local expires = tonumber(first) or math.huge
  return limited('max_kept_bytes', math.floor(max_kept), kept, expires < NOT_ENDED and expires - now or 0)
end

if redis.call('ZCARD', SERVED[tier] .. queue) == 0 then redis.call('DEL', FAIR[tier] .. queue) end
local num_prompt, places, planned = tonumber(fields.num_prompt), tonumber(fields.places), tonumber(fields.planned)
local view = view_of(queue, now)
local expected = expected_tokens(view.pace, planned, places)
if must_keep == '1' then  -- refused at once, where what has been measured says that it would end too late
  local work, start, eta, soonest = expected / places * step_ms(view.pace), 0, prefill_ms(view.pace, num_prompt), 0
  if not is_later then
    start, eta = forecast_new(view, tier, class, next_level(queue, tier, owner), num_prompt)
    eta, soonest = eta - view.loads_in, view.soonest  -- a model that is not loaded comes sooner for a deadline
    leave_if_idle(queue, tier, owner)
  end
  local is_measured = start >= 0 and has_measured(view, start - (is_later and 0 or view.loads_in))
  if soonest == math.huge then return {'late', 'needed_ms', -1} end
  local needed = soonest + (is_measured and eta + work or 0)
  if needed > deadline_ms then return {'late', 'needed_ms', math.ceil(needed)} end
end

if per_minute > 0 then
  left = left - cost
  redis.call('HSET', RATE .. owner, 'level', left, 'at', now)
  redis.call('EXPIRE', RATE .. owner, DAY_S)
end
if per_day > 0 then
  left_today = left_today - cost
  redis.call('HSET', DAY .. owner, 'day', today, 'tokens', per_day - left_today)
  redis.call('EXPIRE', DAY .. owner, 2 * DAY_S)
  redis.call('HSET', key, 'day', today, 'day_cost', cost)
end
local ticket = redis.call('INCR', TICKET)
redis.call('HSET', key, 'queue', queue, 'owner', owner, 'ticket', ticket, 'member', '', 'state', 'queued',
  'tier', tier, 'class', class, 'priority', class,  -- the class, for a worker of the version before, which knows no tiers
  'weight', weight, 'cost', per_minute > 0 and cost or 0, 'fence', 0, 'created', now,
  'tokens', 0, 'crashes', 0, 'solo', 0, 'background', background,
  'bytes', bytes, 'row_bytes', entry_bytes, 'expected', expected, unpack(ARGV, NUM_FIXED + 1, last_own))
keep(owner, id, most)
redis.call('PERSIST', KEPT .. owner)
if idem then  -- it lives as long as its job
  redis.call('HSET', idem, 'id', id, 'digest', idem_digest)
  redis.call('PERSIST', idem)
  redis.call('HSET', key, 'idem', idem)
end
local begins = is_later and not_before or now
if deadline_ms > 0 then
  redis.call('ZADD', DEADLINES .. queue, begins + deadline_ms, id)
  redis.call('HSET', key, 'deadline', begins + deadline_ms)
end
if background == '0' then redis.call('ZADD', READERS .. queue, now, id) end
redis.call('ZADD', OWN_JOBS .. owner, NOT_ENDED + ticket, id)
redis.call('PERSIST', OWN_JOBS .. owner)
if not is_line then redis.call('SADD', OWN_QUEUED .. owner, id) end
redis.call('HSET', RQ_JOB .. id, unpack(ARGV, last_own + 1))
if is_later then  -- expire.lua moves it into the queue
  redis.call('HSET', key, 'not_before', string.format('%d', not_before))
  redis.call('HSET', RQ_JOB .. id, 'status', 'scheduled')
  redis.call('ZADD', LATER .. queue, not_before, id)
  redis.call('ZADD', RQ_SCHEDULED .. queue, math.floor(not_before / 1000), id)
else
  join_queue(id, queue, ticket, view)
end
local position = not is_later and redis.call('ZRANK', waiting, redis.call('HGET', key, 'member'))
local _, eta = forecast(view, tier, tostring(class), num_prompt, position or math.huge, false)
return {'ok', 'position', position or -1, 'eta_ms', math.ceil(is_later and math.max(0, eta) + not_before - now or eta),
  'place_ms', pause(view), 'size', size + 1, quota(in_flight + 1)}
