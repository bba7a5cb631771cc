-- ARGV: id owner ('' for an admin) code message iso. Returns the state before, or false for an unknown or foreign job.
local owner = redis.call('HGET', 'omni:job:' .. ARGV[1], 'owner')
if not owner or (ARGV[2] ~= '' and ARGV[2] ~= owner) then return false end
return cancel(ARGV[1], ARGV[3], ARGV[4], ARGV[5])
