-- A worker takes a fence of its own. ARGV: queue lease_ms predecessor ('' or the fence of a process known to be dead)
if ARGV[3] ~= '' then redis.call('DEL', 'omni:worker:' .. ARGV[3]) end
local fence = redis.call('INCR', 'omni:fence')
redis.call('ZADD', 'omni:workers', fence, fence)
redis.call('HSET', 'omni:worker:' .. fence, 'queue', ARGV[1], 'state', 'loading')
redis.call('PEXPIRE', 'omni:worker:' .. fence, ARGV[2])
redis.call('HSET', 'omni:fences', fence, ARGV[1])
return fence
