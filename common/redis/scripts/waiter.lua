-- Describes the head of the queue and the owners' shares, for a full worker that may have to make room. ARGV: fence queue
-- Returns {'fenced'} | {'nobody'} (the queue is empty, or suspects wait, which no other job joins)
--       | {'head', name, value, ...}, where `shares` holds {owner, places, weight} for the head's owner and for each
--       owner that holds places; num_owners, shares and places are those of the head's tier
local fence, queue = unpack(ARGV, 1, 2)
if not is_alive(fence) then return {'fenced'} end
if redis.call('EXISTS', SUSPECTS .. queue) == 1 then return {'nobody'} end
local member = head_of(queue)
if not member then return {'nobody'} end
local id = id_of(member)
local owner, num_prompt, max_tokens, places, weight = unpack(redis.call('HMGET', JOB .. id,
  'owner', 'num_prompt', 'max_tokens', 'places', 'weight'))
if not owner then return {'nobody'} end
local tier, class = tier_and_class(id)
local shares = {{owner, redis.call('HGET', PLACES[tier] .. queue, owner) or 0, weight or 1}}
local holders = redis.call('HGETALL', PLACES[tier] .. queue)
for at = 1, #holders, 2 do
  local holder, held = holders[at], holders[at + 1]
  if holder ~= owner then
    shares[#shares + 1] = {holder, held, redis.call('HGET', FAIR[tier] .. queue, 'weight:' .. holder) or 1}
  end
end
return {'head', 'id', id, 'owner', owner, 'tier', tier, 'class', class, 'num_prompt', num_prompt, 'max_tokens', max_tokens,
  'places', places or 1, 'num_owners', redis.call('ZCARD', SERVED[tier] .. queue), 'shares', shares}
