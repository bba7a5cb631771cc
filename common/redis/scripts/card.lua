-- Publishes a model's card, from which the API encodes prompts. ARGV: queue card version, then the served ids.
local queue, card, version = unpack(ARGV, 1, 3)
redis.call('SET', CARD .. queue, card)
redis.call('HSET', CARD_VERSIONS, queue, version)
for at = 4, #ARGV do redis.call('HSET', QUEUES, ARGV[at], queue) end
redis.call('DEL', LOADING .. queue)
