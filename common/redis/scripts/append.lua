-- Makes one engine step durable and visible: fence check, every event to its job's log, ends of jobs, one PUBLISH.
-- ARGV: fence iso, then per event: id seq event num_tokens end_state ('' while the job goes on) end_code clear ('1': the
--       job is no longer suspected) gpu_us (of the device, since the job's entry before)
-- Returns {'fenced'}, or a list of 'id:reason' for refused events (gap, unknown, or the job's state). Repeats are ignored.
local fence, iso = unpack(ARGV, 1, 2)
if not is_alive(fence) then return {'fenced'} end
local refused, published, queue = {}, {}, redis.call('HGET', FENCES, fence)
local sum_prompt, sum_generated, served = 0, 0, {default = {}, flex = {}, priority = {}}

local function observe_first(key, num_tokens)
  local now = now_ms()
  local created, first_claimed, num_prompt = unpack(redis.call('HMGET', key, 'created', 'first_claimed', 'num_prompt'))
  redis.call('HSET', key, 'first_row', now)
  if num_tokens == '0' then return end
  sum_prompt = sum_prompt + num_prompt
  observe(queue, 'time_to_first_token', now - created)
  observe(queue, 'request_prefill_time', now - first_claimed)
end

for at = 3, #ARGV, 8 do
  local id, number, event, num_tokens, end_state, end_code, clear, gpu_us = unpack(ARGV, at, at + 7)
  local seq, log, key = tonumber(number), LOG .. id, JOB .. id
  local size = redis.call('XLEN', log)
  if seq > size + 1 then
    refused[#refused + 1] = id .. ':gap'
  elseif seq == size + 1 then
    local state, holder, owner, weight, tier, tokens_before, gpu_before = unpack(redis.call('HMGET', key,
      'state', 'fence', 'owner', 'weight', 'tier', 'tokens', 'gpu_us'))
    if state ~= 'running' or holder ~= fence then
      refused[#refused + 1] = id .. ':' .. (state or 'unknown')
    else
      redis.call('XADD', log, seq .. '-0', 'e', event, 'a', fence)
      published[#published + 1] = '["' .. id .. '",' .. number .. ',' .. event .. ']'
      if num_tokens ~= '0' or gpu_us ~= '0' then
        redis.call('HSET', key, 'tokens', (tokens_before or 0) + num_tokens, 'gpu_us', (gpu_before or 0) + gpu_us)
      end
      sum_generated = sum_generated + num_tokens
      local in_tier = served[tier or 'default']
      in_tier[owner] = (in_tier[owner] or 0) + num_tokens / (weight or 1)
      if seq == 1 then observe_first(key, num_tokens) end
      local may_finish = string.find(event, '"f":"', -16, true)  -- cheaper than the pattern
      local finish_reason = may_finish and string.match(event, ',"f":"(%a+)"}$')  -- a quote inside of text is escaped
      if finish_reason then
        count(queue, 'request_success|' .. finish_reason)
        redis.call('HSET', key, 'finish_reason', finish_reason)
      end
      if clear == '1' then redis.call('HSET', key, 'suspect', 0, 'solo', 0) end
      if end_state ~= '' then
        local cached = string.match(event, '"cached_tokens":(%d+)')
        if end_state == 'finished' and cached then redis.call('HSET', key, 'cached', cached) end
        charge(queue, tier or 'default', owner, in_tier[owner], 1)
        in_tier[owner] = 0
        finish(id, end_state, end_code, iso)
      end
    end
  end
end
for tier, owners in pairs(served) do
  for owner, num_tokens in pairs(owners) do charge(queue, tier, owner, num_tokens, 1) end
end
if sum_prompt > 0 then count(queue, 'prompt_tokens', sum_prompt) end
if sum_generated > 0 then count(queue, 'generation_tokens', sum_generated) end
if #published > 0 then redis.call('PUBLISH', EVENTS, '[' .. table.concat(published, ',') .. ']') end
return refused
