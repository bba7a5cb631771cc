-- The worker's heartbeat. ARGV: fence lease_ms iso, then field/value pairs of the worker's hash.
-- Returns false if the fence was taken away, else {id, reason, ...} of running jobs that are to be cancelled.
local fence = ARGV[1]
if not is_alive(fence) then return false end
local key = 'omni:worker:' .. fence
redis.call('HSET', key, 'queue', redis.call('HGET', 'omni:fences', fence), unpack(ARGV, 4))
redis.call('PEXPIRE', key, ARGV[2])
local out = {}
for _, id in ipairs(redis.call('ZRANGE', 'omni:running:' .. fence, 0, -1)) do
  redis.call('HSET', 'rq:job:' .. id, 'last_heartbeat', ARGV[3])
  local reason = redis.call('HGET', 'omni:job:' .. id, 'cancel')
  if reason then
    out[#out + 1] = id
    out[#out + 1] = reason
  end
end
return out
