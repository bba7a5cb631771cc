-- A worker gives one job back because it and the log do not agree any more: whoever claims it goes on from the log.
-- ARGV: fence queue id
if not is_alive(ARGV[1]) then return false end
local f = redis.call('HMGET', 'omni:job:' .. ARGV[3], 'state', 'fence', 'suspect')
if f[1] ~= 'running' or f[2] ~= ARGV[1] then return false end
back_into_line(ARGV[3], ARGV[2], f[3] == '1' and 'omni:suspects:' or 'omni:waiting:', INTERRUPTED)
redis.call('PUBLISH', 'omni:control:' .. ARGV[2], 'work')
return true
