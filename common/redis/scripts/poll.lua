-- What the readers of one API process must know, once a second: ARGV job ids.
-- Returns for each: state ('' if unknown), rows in its log, position in line (-1 if not waiting). Also renews their readers.
local out, now = {}, now_ms()
for i = 1, #ARGV do
  local id = ARGV[i]
  local f = redis.call('HMGET', 'omni:job:' .. id, 'state', 'queue', 'member')
  local rank = false
  if f[1] then
    redis.call('ZADD', 'omni:readers:' .. f[2], 'XX', now, id)
    if f[1] == 'queued' then rank = redis.call('ZRANK', 'omni:waiting:' .. f[2], f[3]) end
  end
  out[3 * i - 2] = f[1] or ''
  out[3 * i - 1] = redis.call('XLEN', 'omni:log:' .. id)
  out[3 * i] = rank or -1
end
return out
