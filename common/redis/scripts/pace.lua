-- Precedes lib.lua: what waits, how fast it is served, and when a job will start (docs/decisions/0037).
local MEMORY = 1 / 64  -- the weight of the newest job in an average
local FIRST_GUESS = {prefill_ms = 200, step_ms = 50}  -- for Retry-After, until the first job has ended
local MEASURED = 16  -- jobs that have ended, until a window is refused by a forecast
local DOUBT_MS = 2000  -- measured waits weigh as much as this guess that the forecast is right
local MOST_BIAS = 2  -- forecasts are corrected by this factor at most, or by a half
local FRESH_MS = 200  -- how long the expected ends of running jobs may be remembered
local LIVE_TOKENS = 8  -- of running jobs that measure the speed of a worker before its first job has ended

-- The backlog: for each class its waiting jobs, their choices ("places"), prompt tokens and expected answer tokens.
local COUNTED = {'jobs', 'places', 'prompt', 'answer'}

-- Counts a job in (1) when it begins to wait in the queue, and out (-1) when it is taken from there.
local function count_waiting(id, queue, sign)
  local class, priority, places, num_prompt, expected = unpack(redis.call('HMGET', JOB .. id,
    'class', 'priority', 'places', 'num_prompt', 'expected'))
  if not expected then return end  -- enqueued by a version without backlogs
  local backlog, prefix = BACKLOG .. queue, (class or priority or 0) .. ':'
  for at, number in ipairs({1, places or 1, num_prompt or 0, expected}) do
    local left = redis.call('HINCRBY', backlog, prefix .. COUNTED[at], sign * number)
    if at == 1 and left <= 0 then
      for _, name in ipairs(COUNTED) do redis.call('HDEL', backlog, prefix .. name) end
      return
    end
  end
end

-- Averages of the last jobs, kept as sums in which each new job makes the older ones weigh less.
local function learn(queue, ...)
  local names, changes, sums = {}, {...}, {}
  for at = 1, #changes, 2 do names[#names + 1] = changes[at] end
  for at, sum in ipairs(redis.call('HMGET', PACE .. queue, unpack(names))) do
    sums[2 * at - 1] = names[at]
    sums[2 * at] = string.format('%.6g', (tonumber(sum) or 0) * (1 - MEMORY) + changes[2 * at])
  end
  redis.call('HSET', PACE .. queue, unpack(sums))
end

local function pace_of(queue)
  local pace, found = {}, redis.call('HGETALL', PACE .. queue)
  for at = 1, #found, 2 do pace[found[at]] = found[at] == 'ends' and found[at + 1] or tonumber(found[at + 1]) end
  return pace
end

-- From its claim to its first token: a line through the prompts' lengths.
local function prefill_ms(pace, num_prompt)
  local jobs, prompt = pace.jobs or 0, pace.prompt or 0
  if jobs == 0 then return (pace.live_jobs or 0) > 0 and pace.live_prefill / pace.live_jobs or FIRST_GUESS.prefill_ms end
  local spread, slope = jobs * pace.prompt_prompt - prompt * prompt, 0
  if spread > 0.01 * prompt * prompt then
    slope = math.max(0, (jobs * pace.prompt_prefill - prompt * pace.prefill) / spread)
  end
  local start = (pace.prefill - slope * prompt) / jobs
  if start < 0 then return prompt > 0 and pace.prefill / prompt * num_prompt or 0 end
  return start + slope * num_prompt
end

-- Milliseconds per token, as the last jobs and those that run now have measured it. Steps of full workers are longer than
-- those of others, so jobs that ended while others waited are measured apart.
local function step_ms(pace)
  local is_full = pace.is_full and (pace.full_tokens or 0) > 0
  local decode, tokens = is_full and pace.full_decode or pace.decode or 0, is_full and pace.full_tokens or pace.tokens or 0
  if pace.is_full and not is_full and tokens > LIVE_TOKENS and (pace.live_tokens or 0) >= LIVE_TOKENS then
    decode, tokens = decode * LIVE_TOKENS / tokens, LIVE_TOKENS  -- measured under less load than now
  end
  decode, tokens = decode + (pace.live_decode or 0), tokens + (pace.live_tokens or 0)
  return tokens > 0 and decode / tokens or FIRST_GUESS.step_ms
end

-- The places of a queue's workers that are taken now.
local function places_taken(queue)
  local taken = 0
  for _, places_of in pairs(PLACES) do
    local held = redis.call('HGETALL', places_of .. queue)
    for at = 2, #held, 2 do taken = taken + held[at] end
  end
  return taken
end

-- A new worker may be faster or slower than the one before, and have other places, so what that has measured is forgotten.
-- The lengths of answers are the callers' and stay.
local function forget_pace(queue)
  for _, name in ipairs(redis.call('HKEYS', PACE .. queue)) do
    if not (string.find(name, '^planned:') or string.find(name, '^real:')) then redis.call('HDEL', PACE .. queue, name) end
  end
end

-- The share of its planned length that an answer will have. Answers of like plans are alike: plans of 64 to 127 tokens
-- are learned apart from those of 128 to 255.
local function size_of(planned)
  local _, exponent = math.frexp(planned)
  return exponent
end

local function expected_tokens(pace, planned, places)
  local size = size_of(planned)
  local plan, real = pace['planned:' .. size], pace['real:' .. size]
  if not plan or plan <= 0 then plan, real = pace['planned:all'] or 0, pace['real:all'] or 0 end
  return math.floor(planned * places * (plan > 0 and math.min(1, real / plan) or 1) + 0.5)
end

local function learn_end(id, queue, now)
  local places, num_prompt, planned, tokens, claimed, first_claimed, first_row = unpack(redis.call('HMGET', JOB .. id,
    'places', 'num_prompt', 'planned', 'tokens', 'claimed', 'first_claimed', 'first_row'))
  if not (planned and first_row) then return end
  local prefill, each = first_row - first_claimed, tokens / places
  if tonumber(planned) > 0 then
    local size = size_of(tonumber(planned))
    learn(queue, 'planned:' .. size, planned, 'real:' .. size, each, 'planned:all', planned, 'real:all', each)
  end
  if claimed ~= first_claimed then return end  -- it was interrupted, so its times say nothing of the worker's pace
  learn(queue, 'jobs', 1, 'prompt', num_prompt, 'prefill', prefill, 'prompt_prompt', num_prompt * num_prompt,
    'prompt_prefill', num_prompt * prefill)
  if each > 1 then learn(queue, 'decode', now - first_row, 'tokens', each - 1) end
  if redis.call('EXISTS', WAITING .. queue) == 0 then return end
  learn(queue, 'full_jobs', 1, 'full_decode', each > 1 and now - first_row or 0, 'full_tokens', math.max(0, each - 1))
end

local function sort_ends(ends) table.sort(ends, function(a, b) return a.at < b.at end) end

-- When each place that is taken now will be free (`at`, ms from now), in order, and the base of its job's tier; and, into
-- `pace`, what running jobs measure.
local function read_ends(queue, pace, now)
  local running, ends = {}, {}
  pace.live_jobs, pace.live_prefill, pace.live_decode, pace.live_tokens = 0, 0, 0, 0
  for _, fence in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
    local is_ours = redis.call('HGET', WORKER .. fence, 'queue') == queue
    for _, id in ipairs(is_ours and redis.call('ZRANGE', RUNNING .. fence, 0, -1) or {}) do
      local job = redis.call('HMGET', JOB .. id,
        'places', 'num_prompt', 'planned', 'expected', 'tokens', 'claimed', 'first_row', 'first_claimed', 'tier')
      local places, _, _, expected, tokens, claimed, first_row, first_claimed = unpack(job, 1, 8)
      if expected and claimed then
        running[#running + 1] = job
        if first_row and claimed == first_claimed and tokens / places > 1 then
          pace.live_jobs, pace.live_prefill = pace.live_jobs + 1, pace.live_prefill + first_row - first_claimed
          pace.live_decode, pace.live_tokens = pace.live_decode + now - first_row, pace.live_tokens + tokens / places - 1
        end
      end
    end
  end
  local step = step_ms(pace)
  for _, job in ipairs(running) do
    local places, num_prompt, planned, expected, tokens, claimed, first_row, _, tier = unpack(job, 1, 9)
    local done = tokens / places
    local left = math.max(expected / places - done, (planned - done) * expected / math.max(1, planned * places) / 2, 0)
    local free = left * step + (first_row and 0 or math.max(0, prefill_ms(pace, num_prompt) - (now - claimed)))
    for _ = 1, tonumber(places) do ends[#ends + 1] = {at = math.floor(free), base = BASES[tier or 'default']} end
  end
  sort_ends(ends)
  return ends
end

-- The same, remembered for a while, unless `is_refusal`: with full memory that could not be written. Their number is exact.
local function ends_of(queue, pace, now, taken, is_refusal)
  local ends, age = {}, now - (pace.ends_at or 0)
  if age >= 0 and age < FRESH_MS then
    for at, base in string.gmatch(pace.ends or '', '(%S+):(%S+)') do
      ends[#ends + 1] = {at = math.max(0, at - now), base = tonumber(base)}
    end
  else
    local kept = {}
    ends = read_ends(queue, pace, now)
    for at, free in ipairs(ends) do kept[at] = string.format('%d:%d', now + free.at, free.base) end
    if not is_refusal then
      redis.call('HSET', PACE .. queue, 'ends', table.concat(kept, ' '), 'ends_at', now,
        'live_jobs', pace.live_jobs, 'live_prefill', pace.live_prefill,
        'live_decode', pace.live_decode, 'live_tokens', string.format('%.6g', pace.live_tokens))
    end
  end
  while #ends > taken do table.remove(ends, 1) end
  if #ends < taken then  -- claimed since: as long as the mean job
    local service = prefill_ms(pace, (pace.prompt or 0) / math.max(1, pace.jobs or 0))
      + (pace.tokens or 0) / math.max(1, pace.jobs or 0) * step_ms(pace)
    while #ends < taken do ends[#ends + 1] = {at = service, base = BASES.default} end
    sort_ends(ends)
  end
  return ends
end

-- Milliseconds as a worker reports them: missing for 0, -1 for never or unknown.
local function or_never(reported)
  local found = tonumber(reported or 0)
  return found < 0 and math.huge or found
end

-- Whether workers serve the queue; the places that they report to have, nil if one of them does not say; and ms until the
-- first of them has loaded its model, as they expect it (infinite: unknown) and at the soonest (infinite: never, as things
-- stand): both 0 where one has.
local function workers_of(queue)
  local is_served, num_places, loads_in, soonest = false, 0, math.huge, math.huge
  for _, fence in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
    local its_queue, state, places, expected, least = unpack(redis.call('HMGET', WORKER .. fence,
      'queue', 'state', 'num_places', 'loads_in_ms', 'soonest_ms'))
    if its_queue == queue and state ~= 'loading' then
      is_served = true
      num_places = num_places and tonumber(places or 0) > 0 and num_places + places or nil
      loads_in, soonest = math.min(loads_in, or_never(expected)), math.min(soonest, or_never(least))
    end
  end
  return is_served, num_places, is_served and loads_in or 0, is_served and soonest or 0
end

-- What a script needs for the forecasts of one queue, read once.
local function view_of(queue, now, is_refusal)
  local pace, taken = pace_of(queue), places_taken(queue)
  local is_served, num_places, loads_in, soonest = workers_of(queue)
  pace.is_full = num_places and taken >= num_places or redis.call('EXISTS', WAITING .. queue) == 1
  local view = {queue = queue, now = now, pace = pace, num_places = num_places, classes = {}, lines = {},
    loads_in = loads_in < math.huge and loads_in or 0, soonest = soonest,
    ends = ends_of(queue, pace, now, taken, is_refusal)}
  view.is_known = is_served and loads_in < math.huge and ((pace.jobs or 0) > 0 or (pace.live_tokens or 0) >= LIVE_TOKENS)
  local found = redis.call('HGETALL', BACKLOG .. queue)
  for at = 1, #found, 2 do
    local class, name = string.match(found[at], '^(.*):(%a+)$')
    view.classes[class] = view.classes[class] or {jobs = 0, places = 0, prompt = 0, answer = 0}
    view.classes[class][name] = tonumber(found[at + 1])
  end
  return view
end

-- The places that jobs of a tier can take: as many as the workers report, or fewer where memory ends earlier, which each
-- tier learns. Nil: unknown.
local function places_of_tier(view, tier)
  local reported, learned = view.num_places, view.pace['full:' .. tier]
  if reported and learned then return math.min(reported, learned) end
  return reported or learned or (#view.ends == 0 and 1 or nil)
end

-- No window is refused, and no correction learned, by a forecast that has not been measured under a load as it is now.
local function has_measured(view, start)
  return (view.pace.jobs or 0) > MEASURED and (start <= 0 or (view.pace.full_jobs or 0) > MEASURED)
end

-- Waits are longer than work alone explains where later jobs go first, and shorter where jobs end early. How much, each
-- tier learns from its own jobs.
local function bias_of(pace, tier)
  local bias = ((pace['took:' .. tier] or 0) + DOUBT_MS) / ((pace['told:' .. tier] or 0) + DOUBT_MS)
  return math.max(1 / MOST_BIAS, math.min(MOST_BIAS, bias))
end

-- The line in front of a job of this class: what waits in earlier classes, what waits in its own, and when places get
-- free for all of them if each keeps its place as long as the mean job does.
local function line_of(view, tier, class)
  local name = tier .. class
  if view.lines[name] then return view.lines[name] end
  local pace, number = view.pace, tonumber(class)
  local before, own = {jobs = 0, places = 0, prompt = 0, answer = 0}, view.classes[class]
  for other, counts in pairs(view.classes) do
    if tonumber(other) < number then
      for key, value in pairs(counts) do before[key] = before[key] + value end
    end
  end
  own = own or {jobs = 0, places = 0, prompt = 0, answer = 0}
  local places, service = before.places + own.places, 0
  if places > 0 then
    service = prefill_ms(pace, (before.prompt + own.prompt) / (before.jobs + own.jobs))
      + (before.answer + own.answer) / places * step_ms(pace)
  end
  local free, ends = {}, view.ends
  local full = places_of_tier(view, tier) or #ends
  for _ = 1, math.max(math.floor(full + 0.5) - #ends, #ends == 0 and 1 or 0) do free[#free + 1] = 0 end
  for _, taken in ipairs(ends) do  -- a job of a later tier gives way at once
    free[#free + 1] = taken.base > BASES[tier] and 0 or taken.at
  end
  table.sort(free)
  local line = {before = before, own = own, service = service, free = free, num_free = #free, sum = 0}
  for _, at in ipairs(free) do line.sum = line.sum + at end
  view.lines[name] = line
  return line
end

-- Milliseconds until a place is free for a job with this many places ahead of it.
local function start_after(line, places)
  local free, service, num_free = line.free, line.service, line.num_free
  if places >= 2 * num_free then return (service * (places + 1 - num_free / 2) + line.sum) / num_free end
  local taken, start = {0, 0, 0}, 0  -- each place gets free three times; this merges the three, in order
  for _ = 0, math.floor(places) do
    local turn
    start = math.huge
    for number = 1, 3 do
      local at = (free[taken[number] + 1] or math.huge) + (number - 1) * service
      if at < start then turn, start = number, at end
    end
    taken[turn] = taken[turn] + 1
  end
  return start
end

-- Milliseconds between two jobs that start, while all places are taken.
local function place_ms(view, tier, class)
  local line = line_of(view, tier, class)
  local service = line.service > 0 and line.service or prefill_ms(view.pace, 0) + 100 * step_ms(view.pace)
  return bias_of(view.pace, tier) * service / line.num_free
end

-- Forecast of a job that has `rank` jobs before it in the queue: milliseconds until it is claimed as the rules alone say
-- it, and until its first token; both -1 while nothing is known. Both count from now, whether the queue's model is loaded or
-- has to be loaded first. `is_counted`: it is part of the backlog itself.
local function forecast(view, tier, class, num_prompt, rank, is_counted)
  if not (view.is_known and places_of_tier(view, tier)) then return -1, -1 end
  local line, ahead = line_of(view, tier, class), 0
  local before, own = line.before, line.own
  if rank <= before.jobs then
    ahead = before.jobs > 0 and before.places * rank / before.jobs or 0
  else
    local others = own.jobs - (is_counted and 1 or 0)
    ahead = before.places + (own.jobs > 0 and math.min(rank - before.jobs, others) * own.places / own.jobs or 0)
  end
  local start = start_after(line, ahead)
  return view.loads_in + start, view.loads_in + bias_of(view.pace, tier) * start + prefill_ms(view.pace, num_prompt)
end

-- The place and the forecast of a queued job: place or -1, ms until its first token or -1 (unknown; of one that waits for its
-- time, at least until then), unix ms before which it is not admitted or 0. `views`: those of this run of the script, by queue.
local function outlook(id, views, now)
  local state, queue, member, tier, class, priority, num_prompt, not_before = unpack(redis.call('HMGET', JOB .. id,
    'state', 'queue', 'member', 'tier', 'class', 'priority', 'num_prompt', 'not_before'))
  if state ~= 'queued' then return -1, -1, 0 end
  local rank = redis.call('ZRANK', WAITING .. queue, member)
  local is_later = not rank and redis.call('ZSCORE', LATER .. queue, id)
  if not rank and not is_later then return -1, -1, 0 end
  views[queue] = views[queue] or view_of(queue, now)
  tier, class = tier or 'default', tostring(class or priority or 0)
  if is_later then
    local _, eta = forecast(views[queue], tier, class, tonumber(num_prompt), math.huge, false)
    return -1, math.ceil(math.max(0, eta) + math.max(0, is_later - now)), tonumber(is_later)
  end
  local _, eta = forecast(views[queue], tier, class, tonumber(num_prompt), rank, true)
  return rank, math.ceil(eta), 0
end

-- When a job ends while another has waited for a place: those that are taken are all that there are for such jobs.
local function learn_full(queue, now)
  local head = redis.call('ZRANGE', WAITING .. queue, 0, 0)[1]
  local tier, queued = unpack(head and redis.call('HMGET', JOB .. string.sub(head, 17), 'tier', 'queued') or {})
  local last = redis.call('HGET', PACE .. queue, 'full_at')
  if not queued or now - queued < FRESH_MS or now - (last or 0) < FRESH_MS then return end  -- of jobs that end together, the first
  local name, taken = 'full:' .. (tier or 'default'), places_taken(queue)
  local full = tonumber(redis.call('HGET', PACE .. queue, name) or taken)
  redis.call('HSET', PACE .. queue, name, string.format('%.4g', full + (taken - full) / 4), 'full_at', now)
end

-- At a job's first claim: how true its forecast was; and as many places as are taken there are.
local function learn_start(id, queue, tier, now)
  local queued, told = unpack(redis.call('HMGET', JOB .. id, 'queued', 'told'))
  if not queued then return end  -- enqueued by a version without forecasts
  if told then learn(queue, 'told:' .. tier, told, 'took:' .. tier, now - queued) end
  local full, taken = tonumber(redis.call('HGET', PACE .. queue, 'full:' .. tier) or math.huge), places_taken(queue)
  if taken > full then redis.call('HSET', PACE .. queue, 'full:' .. tier, taken) end
end
