-- Forgets an ended job with all that was said. ARGV: id. Returns 1, or 0 for a job that has not ended.
local id = ARGV[1]
local f = redis.call('HMGET', 'omni:job:' .. id, 'state', 'queue', 'owner', 'idem')
if f[1] == 'queued' or f[1] == 'running' then return 0 end
redis.call('DEL', 'omni:job:' .. id, 'omni:log:' .. id, 'rq:job:' .. id)
if f[1] then
  redis.call('ZREM', 'omni:jobs:' .. f[3], id)
  keep(f[3], id, 0)
  if f[4] then redis.call('DEL', f[4]) end
  redis.call('ZREM', 'omni:ended:' .. f[2], id)
  redis.call('ZREM', 'rq:' .. RQ_STATUS[f[1]] .. ':' .. f[2], id)
end
return 1
