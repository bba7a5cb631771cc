-- Takes, renews or gives back the right to dispatch. ARGV: token milliseconds (0: give it back) instead_of (the token of a
-- holder that is known to be dead, or '')
-- Returns 1, or 0 when another token has it.
local token, milliseconds, instead_of = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local holder = redis.call('GET', DISPATCHER)
if holder and holder ~= token and holder ~= instead_of then return 0 end
if milliseconds > 0 then redis.call('SET', DISPATCHER, token, 'PX', milliseconds) else redis.call('DEL', DISPATCHER) end
return 1
