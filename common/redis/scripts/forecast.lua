-- The places of queued jobs and when they will start. ARGV: job ids
-- Returns for each {position in the queue (-1 when it does not wait there), ms until its first token (-1 when it does not
-- wait), unix ms before which it is not admitted (0 when it need not wait for that)}
local forecasts, views, now = {}, {}, now_ms()
for at, id in ipairs(ARGV) do forecasts[at] = {outlook(id, views, now)} end
return forecasts
