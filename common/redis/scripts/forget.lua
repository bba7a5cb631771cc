-- Deletes an ended job and its log. ARGV: id. Returns 1, or 0 for a job that has not ended.
local id = ARGV[1]
local state, queue, owner, idem = unpack(redis.call('HMGET', JOB .. id, 'state', 'queue', 'owner', 'idem'))
if state == 'queued' or state == 'running' then return 0 end
redis.call('DEL', JOB .. id, LOG .. id, RQ_JOB .. id)
if state then
  redis.call('ZREM', OWN_JOBS .. owner, id)
  keep(owner, id, 0)
  if idem then redis.call('DEL', idem) end
  redis.call('ZREM', RQ_REGISTRY[state] .. queue, id)
end
return 1
