-- Gives a new worker its fence. ARGV: queue
local queue = ARGV[1]
local fence = redis.call('INCR', FENCE)
redis.call('ZADD', WORKERS, fence, fence)
redis.call('HSET', WORKER .. fence, 'queue', queue, 'state', 'loading')
redis.call('PEXPIRE', WORKER .. fence, LEASE_MS)
redis.call('HSET', FENCES, fence, queue)
forget_pace(queue)
return fence
