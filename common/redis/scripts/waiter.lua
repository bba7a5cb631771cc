-- What a full worker must know to decide whether one of its jobs makes room. ARGV: fence queue
-- Returns {'fenced'} | {} (nobody waits, or suspects do, whom nobody joins) | {id of the head, its owner, priority, prompt's
-- tokens, most tokens of an answer, places, how many owners wait or run, then owner, places, weight of the head's owner and
-- of each that holds places}
local fence, queue = ARGV[1], ARGV[2]
if not is_alive(fence) then return {'fenced'} end
if redis.call('EXISTS', 'omni:suspects:' .. queue) == 1 then return {} end
local member = head_of(queue)
if not member then return {} end
local id, places = id_of(member), 'omni:places:' .. queue
local f = redis.call('HMGET', 'omni:job:' .. id, 'owner', 'priority', 'num_prompt', 'max_tokens', 'places', 'weight')
if not f[1] then return {} end
local out = {id, f[1], f[2] or 0, f[3], f[4], f[5] or 1, redis.call('ZCARD', 'omni:served:' .. queue),
  f[1], redis.call('HGET', places, f[1]) or 0, f[6] or 1}
local held = redis.call('HGETALL', places)
for i = 1, #held, 2 do
  if held[i] ~= f[1] then
    out[#out + 1], out[#out + 2] = held[i], held[i + 1]
    out[#out + 1] = redis.call('HGET', 'omni:fair:' .. queue, 'weight:' .. held[i]) or 1
  end
end
return out
