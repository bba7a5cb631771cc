-- ARGV: id owner ('' for an admin) code message iso grace_ms
-- Returns the state before, or false for an unknown job or another owner's.
local id, caller, code, message, iso, grace_ms = unpack(ARGV, 1, 6)
local owner, idem, queue, state = unpack(redis.call('HMGET', JOB .. id, 'owner', 'idem', 'queue', 'state'))
if not owner or (caller ~= '' and caller ~= owner) then return false end
if code == 'client_gone' and idem then
  -- The caller may have come back with the same Idempotency-Key through another process, whose sweep renews the job's
  -- reader every second. Without one the job ends by itself after three seconds.
  redis.call('ZADD', READERS .. queue, 'XX', now_ms() - grace_ms + math.min(3000, grace_ms), id)
  return state
end
return cancel(id, code, message, iso)
