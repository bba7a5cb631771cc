-- What waits in each of several queues, for the worker that serves them all. Reads no more of a long queue than of a short
-- one: the first jobs of the keys that come next, and the earliest deadlines. ARGV: queues
-- Returns for each queue false when nothing waits there, else {jobs, keys (with jobs, by weight; a text), tier and
--   class (of the head), has_new (1: a job waits that is not flex and was never interrupted), ms that the oldest job has
--   waited, and ms until the earliest deadline: each of jobs that are not flex, then of flex jobs, and -1 for none}
local MOST_KEYS, MOST_DEADLINES = 32, 16  -- that are looked at, of each tier and of each queue
local now, FLEX_FROM = now_ms(), (BASES.flex - 500) * CLASS_STEP  -- the lowest score of a flex job

-- When the oldest of the tier's jobs came, as far as it is the first of one of the keys that come next; nil: none waits.
local function oldest_of(queue, tier)
  local first
  for _, owner in ipairs(redis.call('ZRANGE', SERVED[tier] .. queue, 0, MOST_KEYS - 1)) do
    local member = redis.call('ZRANGE', owner_queue(queue, tier, owner), 0, 0)[1]
    if member and (not first or member < first) then first = member end  -- members begin with their tickets
  end
  if not first then return nil end
  local queued, created = unpack(redis.call('HMGET', JOB .. id_of(first), 'queued', 'created'))
  return tonumber(queued or created or now)
end

local function earlier(one, other) return math.min(one or math.huge, other or math.huge) end

local function keys_of(queue, tier)
  local owners, sum = redis.call('ZRANGE', SERVED[tier] .. queue, 0, MOST_KEYS - 1), 0
  if #owners == 0 then return 0 end
  for at, owner in ipairs(owners) do owners[at] = 'weight:' .. owner end
  for _, weight in ipairs(redis.call('HMGET', FAIR[tier] .. queue, unpack(owners))) do sum = sum + (weight or 1) end
  return sum / #owners * redis.call('ZCARD', SERVED[tier] .. queue)
end

local function deadlines_of(queue)
  local earliest, found = {}, redis.call('ZRANGE', DEADLINES .. queue, 0, MOST_DEADLINES - 1, 'WITHSCORES')
  for at = 1, #found, 2 do
    local state, tier, not_before = unpack(redis.call('HMGET', JOB .. found[at], 'state', 'tier', 'not_before'))
    local waits = state == 'queued' and tonumber(not_before or 0) <= now
    if waits then earliest[tier == 'flex'] = earlier(earliest[tier == 'flex'], tonumber(found[at + 1])) end
  end
  return earliest
end

local function num_interrupted(queue)
  local sum = 0
  for _, tier in ipairs({'priority', 'default'}) do
    local score = (BASES[tier] - INTERRUPTED) * CLASS_STEP
    sum = sum + redis.call('ZCOUNT', WAITING .. queue, score, score + INTERRUPTED * CLASS_STEP - 1)
  end
  return sum
end

local function waits_in(queue)
  local waiting = WAITING .. queue
  local num_jobs, num_suspects = redis.call('ZCARD', waiting), redis.call('ZCARD', SUSPECTS .. queue)
  if num_jobs + num_suspects == 0 then return false end
  local oldest, oldest_flex = earlier(oldest_of(queue, 'priority'), oldest_of(queue, 'default')), oldest_of(queue, 'flex')
  local suspect = num_suspects > 0 and redis.call('ZRANGE', SUSPECTS .. queue, 0, 0)[1]
  local head = id_of(suspect or redis.call('ZRANGE', waiting, 0, 0)[1])
  local tier, class = tier_and_class(head)
  if suspect then
    local created = tonumber(redis.call('HGET', JOB .. head, 'created') or now)
    if tier == 'flex' then oldest_flex = earlier(oldest_flex, created) else oldest = earlier(oldest, created) end
  end
  local num_keys, deadlines = keys_of(queue, 'priority') + keys_of(queue, 'default'), deadlines_of(queue)
  local function age(at) return at and at < math.huge and math.max(0, now - at) or -1 end
  local function left(at) return at and at < math.huge and math.max(0, at - now) or -1 end
  return {num_jobs + num_suspects, tostring(num_keys > 0 and num_keys or keys_of(queue, 'flex')), tier, class,
    redis.call('ZCOUNT', waiting, '-inf', '(' .. FLEX_FROM) > num_interrupted(queue) and 1 or 0,
    age(oldest), age(oldest_flex), left(deadlines[false]), left(deadlines[true])}
end

local found = {}
for at, queue in ipairs(ARGV) do found[at] = waits_in(queue) end
return found
