-- One engine step becomes durable and visible: fence check, every row to its job's log, ends, one PUBLISH.
-- ARGV: fence iso publish ('1'), then per row: id seq row num_tokens end_state ('' while it goes on) end_code clear ('1')
-- Returns {'fenced'} or a list of 'id:reason' for rows that were refused (gap, unknown, ended); repeats are silent.
local fence, iso = ARGV[1], ARGV[2]
if not is_alive(fence) then return {'fenced'} end
local refused, rows = {}, {}
for i = 4, #ARGV, 7 do
  local id, seq, row = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local log, key = 'omni:log:' .. id, 'omni:job:' .. id
  local size = redis.call('XLEN', log)
  if seq > size + 1 then
    refused[#refused + 1] = id .. ':gap'
  elseif seq == size + 1 then
    local f = redis.call('HMGET', key, 'state', 'fence')
    if f[1] ~= 'running' or f[2] ~= fence then
      refused[#refused + 1] = id .. ':' .. (f[1] or 'unknown')
    else
      redis.call('XADD', log, seq .. '-0', 'e', row, 'a', fence)
      rows[#rows + 1] = '["' .. id .. '",' .. ARGV[i + 1] .. ',' .. row .. ']'
      if ARGV[i + 3] ~= '0' then redis.call('HINCRBY', key, 'tokens', ARGV[i + 3]) end
      if seq == 1 then redis.call('HSET', key, 'first_row', now_ms()) end
      if ARGV[i + 6] == '1' then redis.call('HSET', key, 'suspect', 0, 'solo', 0) end
      if ARGV[i + 4] ~= '' then finish(id, ARGV[i + 4], ARGV[i + 5], iso) end
    end
  end
end
if #rows > 0 and ARGV[3] == '1' then redis.call('PUBLISH', 'omni:events:0', '[' .. table.concat(rows, ',') .. ']') end
return refused
