-- Puts the jobs of dead workers back into the queue, before all others of their class.
-- ARGV: queue iso leaving (the fence of a worker that exits cleanly and gives its jobs back without blame, or '') only (the
--       one dead fence to look at, or '' for all)
-- Returns the number of jobs.
local queue, iso, leaving, only = unpack(ARGV, 1, 4)
local MAX_SOLO, MAX_CRASHES, num_taken = 2, 20, 0

local function blame(id, num_blamed)
  local key = JOB .. id
  local crashes = redis.call('HINCRBY', key, 'crashes', 1)
  local solo = num_blamed == 1 and redis.call('HINCRBY', key, 'solo', 1) or 0
  if solo >= MAX_SOLO or crashes >= MAX_CRASHES then
    rq_stop_execution(id, queue, unpack(redis.call('HMGET', key, 'fence', 'worker')))
    end_with_failure(id, 'failed', 'worker_crashed', 'This request stopped its worker ' .. crashes .. ' times and will not be tried again.', iso)
    return
  end
  requeue(id, queue, SUSPECTS, INTERRUPTED)
end

local function take_back(fence, is_crash)
  local ids = redis.call('ZRANGE', RUNNING .. fence, 0, -1, 'REV')  -- youngest first, because each goes to the front
  local is_suspect, num_suspects = {}, 0
  for _, id in ipairs(ids) do
    is_suspect[id] = redis.call('HGET', JOB .. id, 'suspect') == '1'
    if is_suspect[id] then num_suspects = num_suspects + 1 end
  end
  local num_blamed = num_suspects > 0 and num_suspects or #ids
  if is_crash and num_blamed > 0 then  -- from now on half as many suspects run together
    local limit = tonumber(redis.call('GET', BATCH_LIMIT .. queue) or num_blamed)
    redis.call('SET', BATCH_LIMIT .. queue, math.max(1, math.min(limit, math.ceil(num_blamed / 2))))
  end
  for _, id in ipairs(ids) do
    if is_crash and (is_suspect[id] or num_suspects == 0) then
      blame(id, num_blamed)
    else
      requeue(id, queue, is_suspect[id] and SUSPECTS or WAITING, INTERRUPTED)
    end
    num_taken = num_taken + 1
  end
  redis.call('DEL', RUNNING .. fence, WORKER .. fence)
  redis.call('ZREM', WORKERS, fence)
  redis.call('HDEL', FENCES, fence)
  redis.call('HDEL', CLAIMS, fence)
end

if leaving ~= '' then
  if is_alive(leaving) then take_back(leaving, false) end
  return num_taken
end
for _, fence in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
  local is_meant = (only == '' or only == fence) and redis.call('HGET', FENCES, fence) == queue
  if is_meant and redis.call('EXISTS', WORKER .. fence) == 0 then
    take_back(fence, true)
    redis.call('INCR', CRASHES .. queue)
  end
end
if num_taken > 0 then redis.call('PUBLISH', CONTROL .. queue, WORK) end
return num_taken
