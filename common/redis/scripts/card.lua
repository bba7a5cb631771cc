-- What the API must know of a model to encode prompts for it. ARGV: queue card revision, then the ids that it serves.
local queue = ARGV[1]
redis.call('SET', 'omni:card:' .. queue, ARGV[2])
redis.call('HSET', 'omni:revisions', queue, ARGV[3])
for i = 4, #ARGV do redis.call('HSET', 'omni:queues', ARGV[i], queue) end
redis.call('DEL', 'omni:loading:' .. queue)
