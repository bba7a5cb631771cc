-- Renews a worker's lease. ARGV: fence iso, then field/value pairs of the worker's report
-- Returns false when the fence was taken away, else {id, reason, ...} of running jobs to cancel.
local fence, iso = unpack(ARGV, 1, 2)
if not is_alive(fence) then return false end
redis.call('HSET', WORKER .. fence, 'queue', redis.call('HGET', FENCES, fence), unpack(ARGV, 3))
redis.call('PEXPIRE', WORKER .. fence, LEASE_MS)
local cancelled = {}
for _, id in ipairs(redis.call('ZRANGE', RUNNING .. fence, 0, -1)) do
  redis.call('HSET', RQ_JOB .. id, 'last_heartbeat', iso)
  local reason = redis.call('HGET', JOB .. id, 'cancel')
  if reason then
    cancelled[#cancelled + 1] = id
    cancelled[#cancelled + 1] = reason
  end
end
return cancelled
