-- ARGV: round. Marks the records as complete after a rebuilding; 0 if the broker was restarted or flushed since it
-- started. Tokens continue from the clock, because the latest ones may be lost and none may be used again.
local _, round = unpack(ARGV)
local began = redis.call('GETDEL', p .. 'round:' .. round)
if began ~= run_id() then return 0 end
redis.call('SET', p .. 'whole', began .. ':' .. round)
if tonumber(redis.call('GET', p .. 'token') or 0) < now * 1e6 then
  redis.call('SET', p .. 'token', string.format('%.0f', now * 1e6))
end
return 1
