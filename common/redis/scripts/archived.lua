-- The answers of these ended jobs are in the store now: here they expire as all others. ARGV: job ids
local now = now_ms()
for _, id in ipairs(ARGV) do
  local state, queue, owner, idem, ended, ttl, failure_ttl = unpack(redis.call('HMGET', JOB .. id,
    'state', 'queue', 'owner', 'idem', 'ended', 'ttl', 'failure_ttl'))
  if ended then
    local expires = math.max(now + 1, ended + (state == 'finished' and ttl or failure_ttl) * 1000)
    for _, key in ipairs({JOB .. id, LOG .. id, RQ_JOB .. id}) do redis.call('PEXPIREAT', key, expires) end
    if idem then redis.call('PEXPIREAT', idem, expires) end
    redis.call('ZADD', OWN_JOBS .. owner, 'XX', expires, id)
    redis.call('ZADD', RQ_REGISTRY[state] .. queue, 'XX', math.floor(expires / 1000), id)
  end
end
