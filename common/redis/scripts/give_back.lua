-- Puts one job of a worker back into the queue, because the worker's view of its log is wrong; the next claim continues
-- from the log. ARGV: fence queue id
local fence, queue, id = unpack(ARGV, 1, 3)
if not is_alive(fence) then return false end
local state, holder, suspect = unpack(redis.call('HMGET', JOB .. id, 'state', 'fence', 'suspect'))
if state ~= 'running' or holder ~= fence then return false end
requeue(id, queue, suspect == '1' and SUSPECTS or WAITING, INTERRUPTED)
redis.call('PUBLISH', CONTROL .. queue, WORK)
return true
