-- One engine step becomes durable and visible: fence check, every row to its job's log, ends, one PUBLISH.
-- ARGV: fence iso publish ('1'), then per row: id seq row num_tokens end_state ('' while it goes on) end_code clear ('1')
-- Returns {'fenced'} or a list of 'id:reason' for rows that were refused (gap, unknown, ended); repeats are silent.
local fence, iso = ARGV[1], ARGV[2]
if not is_alive(fence) then return {'fenced'} end
local refused, rows, queue = {}, {}, redis.call('HGET', 'omni:fences', fence)
local num_prompt, num_generated, served = 0, 0, {}
for i = 4, #ARGV, 7 do
  local id, seq, row = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local log, key = 'omni:log:' .. id, 'omni:job:' .. id
  local size = redis.call('XLEN', log)
  if seq > size + 1 then
    refused[#refused + 1] = id .. ':gap'
  elseif seq == size + 1 then
    local f = redis.call('HMGET', key, 'state', 'fence', 'owner', 'weight')
    if f[1] ~= 'running' or f[2] ~= fence then
      refused[#refused + 1] = id .. ':' .. (f[1] or 'unknown')
    else
      redis.call('XADD', log, seq .. '-0', 'e', row, 'a', fence)
      rows[#rows + 1] = '["' .. id .. '",' .. ARGV[i + 1] .. ',' .. row .. ']'
      if ARGV[i + 3] ~= '0' then redis.call('HINCRBY', key, 'tokens', ARGV[i + 3]) end
      num_generated = num_generated + ARGV[i + 3]
      served[f[3]] = (served[f[3]] or 0) + ARGV[i + 3] / (f[4] or 1)
      if seq == 1 then
        local now, j = now_ms(), redis.call('HMGET', key, 'created', 'first_claimed', 'num_prompt')
        redis.call('HSET', key, 'first_row', now)
        if ARGV[i + 3] ~= '0' then
          num_prompt = num_prompt + j[3]
          observe(queue, 'time_to_first_token', now - j[1])
          observe(queue, 'request_prefill_time', now - j[2])
        end
      end
      local finish_reason = string.match(row, ',"f":"(%a+)"}$')  -- a quote inside of text is escaped
      if finish_reason then count(queue, 'request_success|' .. finish_reason) end
      if ARGV[i + 6] == '1' then redis.call('HSET', key, 'suspect', 0, 'solo', 0) end
      if ARGV[i + 4] ~= '' then
        charge(queue, f[3], served[f[3]], 1)
        served[f[3]] = 0
        finish(id, ARGV[i + 4], ARGV[i + 5], iso)
      end
    end
  end
end
for owner, num_tokens in pairs(served) do charge(queue, owner, num_tokens, 1) end
if num_prompt > 0 then count(queue, 'prompt_tokens', num_prompt) end
if num_generated > 0 then count(queue, 'generation_tokens', num_generated) end
if #rows > 0 and ARGV[3] == '1' then redis.call('PUBLISH', 'omni:events:0', '[' .. table.concat(rows, ',') .. ']') end
return refused
