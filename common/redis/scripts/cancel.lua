-- ARGV: id owner ('' for an admin) code message iso grace_ms. Returns the state before, or false for an unknown or foreign job.
local f = redis.call('HMGET', 'omni:job:' .. ARGV[1], 'owner', 'idem', 'queue', 'state')
if not f[1] or (ARGV[2] ~= '' and ARGV[2] ~= f[1]) then return false end
if ARGV[3] == 'client_gone' and f[2] then
  -- The caller may have come back with the same Idempotency-Key, to another process, whose readers say every second that they
  -- are there: if none does, the job ends by itself.
  redis.call('ZADD', 'omni:readers:' .. f[3], 'XX', now_ms() - ARGV[6] + math.min(3000, ARGV[6]), ARGV[1])
  return f[4]
end
return cancel(ARGV[1], ARGV[3], ARGV[4], ARGV[5])
