-- ARGV: round. Says that every recorded request has been restored since the round began; 0 if the broker was restarted
-- or flushed meanwhile. Tokens go on from the clock: those of before may have been forgotten, and none comes back.
local _, round = unpack(ARGV)
local began = redis.call('GETDEL', p .. 'round:' .. round)
if began ~= run_id() then return 0 end
redis.call('SET', p .. 'whole', began .. ':' .. round)
if tonumber(redis.call('GET', p .. 'token') or 0) < now * 1e6 then
  redis.call('SET', p .. 'token', string.format('%.0f', now * 1e6))
end
return 1
