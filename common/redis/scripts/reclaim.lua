-- Takes the jobs of dead workers back into the line, before all others of their class.
-- ARGV: queue iso, then a fence that gives its jobs up itself (a clean exit, nobody is blamed), or '';
--       then the one dead fence to look at (the process that is replaced), or '' for all
-- Returns the number of jobs taken back.
local queue, iso, leaving, only = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local MAX_SOLO, MAX_CRASHES, taken = 2, 20, 0

local function blame(id, num_blamed)
  local key = 'omni:job:' .. id
  local crashes = redis.call('HINCRBY', key, 'crashes', 1)
  local solo = num_blamed == 1 and redis.call('HINCRBY', key, 'solo', 1) or 0
  if solo >= MAX_SOLO or crashes >= MAX_CRASHES then
    rq_stop_execution(id, queue, unpack(redis.call('HMGET', key, 'fence', 'worker')))
    end_with_failure(id, 'failed', 'worker_crashed', 'This request stopped its worker ' .. crashes .. ' times and will not be tried again.', iso)
    return
  end
  back_into_line(id, queue, 'omni:suspects:', INTERRUPTED)
end

local function take_back(fence, is_crash)
  local ids = redis.call('ZRANGE', 'omni:running:' .. fence, 0, -1, 'REV')  -- youngest first, each to the front
  local suspects = {}
  for _, id in ipairs(ids) do
    if redis.call('HGET', 'omni:job:' .. id, 'suspect') == '1' then suspects[#suspects + 1] = id end
  end
  local num_blamed = #suspects > 0 and #suspects or #ids
  if is_crash and num_blamed > 0 then  -- from now on half as many suspects run together
    local limit = tonumber(redis.call('GET', 'omni:batch_limit:' .. queue) or num_blamed)
    redis.call('SET', 'omni:batch_limit:' .. queue, math.max(1, math.min(limit, math.ceil(num_blamed / 2))))
  end
  for _, id in ipairs(ids) do
    local is_suspect = redis.call('HGET', 'omni:job:' .. id, 'suspect') == '1'
    if is_crash and (is_suspect or #suspects == 0) then
      blame(id, num_blamed)
    else
      back_into_line(id, queue, is_suspect and 'omni:suspects:' or 'omni:waiting:', INTERRUPTED)
    end
    taken = taken + 1
  end
  redis.call('DEL', 'omni:running:' .. fence, 'omni:worker:' .. fence)
  redis.call('ZREM', 'omni:workers', fence)
  redis.call('HDEL', 'omni:fences', fence)
  redis.call('HDEL', 'omni:claims', fence)
end

if leaving ~= '' then
  if is_alive(leaving) then take_back(leaving, false) end
  return taken
end
for _, fence in ipairs(redis.call('ZRANGE', 'omni:workers', 0, -1)) do
  if (only == '' or only == fence) and redis.call('HGET', 'omni:fences', fence) == queue and redis.call('EXISTS', 'omni:worker:' .. fence) == 0 then
    take_back(fence, true)
    redis.call('INCR', 'omni:crashes:' .. queue)
  end
end
if taken > 0 then redis.call('PUBLISH', 'omni:control:' .. queue, 'work') end
return taken
